"""The cluster's DNS: Services and their endpoints under `cluster.local`, by Kubernetes' DNS specification 1.1.

    data.py       what is kept of an API object
    directory.py  all of it, with its indexes
    zone.py       names below the cluster's domain -> records; reverse.py: addresses -> names
    clusterset.py names below `clusterset.local`: what other clusters export
    responder.py  bytes of a query -> bytes of a response
    client.py     lists and watches over HTTPS; follow.py: what a list or an event means
    server.py     UDP and TCP; health.py: readiness and metrics; corefile.py, __main__.py: how it is run

Invariants: everything but client, server, health and __main__ is pure; standard library only, because it runs in a pod
of its own (two of them per cluster), where `isthmus.kube` with its HTTP library would take three times the memory.
"""
