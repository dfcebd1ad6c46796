"""Messages of the etcd v3 API, generated from `proto/etcd` by `scripts/generate-protos`.

Committed, so that running needs no compiler. Only messages: the calls are registered by hand in `isthmus.store`,
where a dozen lines replace a generated stub that knows nothing of asyncio's types. Never edit the other files here.
"""
