"""Names of Services that are exported by any cluster of the set: `NAME.NAMESPACE.svc.clusterset.local`.

Source: the DNS specification of KEP-1645. As in a cluster's own zone, but for what stands behind a headless Service:
endpoints are named after the cluster they are in, `HOST.CLUSTER.NAME.NAMESPACE.svc.clusterset.local`, so that two
clusters may have a `web-0` each. Invariant: no name stands for all endpoints of one cluster; `CLUSTER.NAME...` exists,
without records, for as long as there are names below it (RFC 8020). Rejected: names of single endpoints of a Service
with an address, which the specification does not have.
"""

from isthmus.lab.dns.data import Service
from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.zone import NOTHING, UNKNOWN, Found, ServiceZone
from isthmus.wire.dns import Name


class ClusterSetZone(ServiceZone):
    """The zone over a directory of imports; `server` is a cluster's own zone, which has the name server's name."""

    def __init__(self, origin: Name, imports: Directory, *, server: ServiceZone, ttl: int = 5) -> None:
        super().__init__(origin, imports, ttl=ttl, pods=False, primary=server.primary)

    def _endpoint(self, name: Name, service: Service, labels: Name, type: int) -> Found:
        if not service.headless:
            return UNKNOWN
        if len(labels) == 1:
            found = any(endpoint.cluster == labels[0] for endpoint, _ports in self._directory.endpoints(service))
            return NOTHING if found else UNKNOWN
        return super()._endpoint(name, service, labels, type)
