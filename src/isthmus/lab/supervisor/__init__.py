"""The process that holds a lab together: PID 1 of the lab's own namespaces."""
