"""`nginx` for pods: static files, fixed answers, access log; the part of nginx's configuration that says so."""
