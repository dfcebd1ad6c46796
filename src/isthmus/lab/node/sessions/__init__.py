"""What users do with a running pod: exec, attach, port-forward."""
