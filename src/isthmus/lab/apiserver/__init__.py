"""The lab's embedded Kubernetes API server.

It exists so that real kubectl, real controllers and our own client can be tried on one machine without a cluster.
Everything that differs between kinds is data (`kinds`, `types/*.txt`, `columns`, `strategies`); everything that is
the same for all kinds is code that knows no kind by name. No module here may import `isthmus.kube`: a server that is
tested by the client it shares code with proves nothing. A fake made of canned answers was rejected: kubectl asks for
discovery, OpenAPI, tables, watches and patches in ways that only a working server satisfies.
"""
