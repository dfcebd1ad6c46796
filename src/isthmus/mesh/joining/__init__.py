"""Joining clusters, as `isthmus clustermesh` and the lab do it: what is written where, and whether all is well."""
