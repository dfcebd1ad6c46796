"""The store: an etcd v3 client, a child etcd, and a twin in memory for tests and standalone use.

`contract.Store` is what callers see; `client.Client` and `memory.MemoryStore` keep it, and one set of tests runs on
both. gRPC is known only in `transport` and `client`.
"""
