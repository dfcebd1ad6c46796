"""The keeper: one small process per node that makes namespaces and is the parent of every container.

All but `client` runs in the keeper itself, which forks for every container and is there once per node: it imports a
few modules of the standard library, not even `typing`, so that it stays at five megabytes.
"""
