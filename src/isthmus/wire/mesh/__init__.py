"""Messages of values in the store that are protobuf, generated from `proto/mesh` by `scripts/generate-protos`.

Committed, so that running needs no compiler. Never edit the other files here.
"""
