"""The end of namespaces, and what each of them is given: a default ServiceAccount and the root certificate."""
