"""The backends of an exported Service as those of its derived Service, where no selector can do that.

Two kinds of Services need it: those without a selector, whose EndpointSlices somebody makes by hand, and headless ones,
because the EndpointSlice controller gives a pod its host name only in slices of the Service that the pod names as its
subdomain. A copy is named after what it was copied from and owned by the derived Service. Ports that the import does
not have are left out, and those that it has under another name get that. Rejected: copies for all exported Services, as
newer versions of Cilium make them, with which backends stop changing when the tracker is away.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from isthmus.mesh.mcs import api
from isthmus.mesh.mcs.api import SOURCE_CLUSTER, Service
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.services.exports import Merged

Json = dict[str, Any]
OF_SERVICE = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
HEADLESS = "service.kubernetes.io/headless"
COPIES = "mcs-endpointslice-controller.isthmus.dev"
"""Value of MANAGED_BY of copies."""
MAX_ENDPOINTS = 1000


def copies(found: Iterable[Json], *, service: Service, derived: Service, merged: Merged, own: str) -> dict[str, Json]:
    """Returns the EndpointSlices that the derived Service should have, by name; `found` are those of the Service."""
    names = _names(service, merged)
    wanted: dict[str, Json] = {}
    for item in found:
        meta = item.get("metadata") or {}
        held = meta.get("labels") or {}
        # What tells of other clusters' backends comes back to us from where it came.
        if held.get(MANAGED_BY) == COPIES or held.get(SOURCE_CLUSTER, own) != own:
            continue
        if item.get("addressType") not in ("IPv4", "IPv6") or not meta.get("name"):
            continue
        given = [port for port in item.get("ports") or () if isinstance(port, dict)]
        ports = [{**port, "name": name} for port in given if (name := names.get(port.get("name") or "")) is not None]
        if given and not ports:
            continue
        name = f"{derived.metadata.name}-{hashlib.sha256(meta['name'].encode()).hexdigest()[:10]}"
        labels = {
            OF_SERVICE: derived.metadata.name,
            MANAGED_BY: COPIES,
            api.SERVICE_NAME: service.metadata.name,
            SOURCE_CLUSTER: own,
        }
        if derived.spec.headless:
            labels[HEADLESS] = ""
        owner = {
            "apiVersion": "v1",
            "kind": "Service",
            "name": derived.metadata.name,
            "uid": derived.metadata.uid,
            "controller": True,
        }
        wanted[name] = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": derived.metadata.namespace,
                "name": name,
                "labels": labels,
                "ownerReferences": [owner],
            },
            "addressType": item["addressType"],
            "endpoints": list(item.get("endpoints") or ())[:MAX_ENDPOINTS],
            "ports": ports,
        }
    return wanted


def is_same(held: Json, wanted: Json) -> bool:
    """Whether a copy is as it should be."""
    if any((held.get(part) or []) != wanted[part] for part in ("endpoints", "ports")):
        return False
    meta, target = held.get("metadata") or {}, wanted["metadata"]
    owners = [owner.get("uid") for owner in meta.get("ownerReferences") or ()]
    return meta.get("labels") == target["labels"] and owners == [target["ownerReferences"][0]["uid"]]


def _names(service: Service, merged: Merged) -> dict[str, str]:
    """Returns the names that the import gives to the ports of a Service, by theirs."""
    imported = {(port.port, port.protocol): port.name for port in merged.ports}
    found: dict[str, str] = {}
    for port in service.spec.ports:
        number = PORT_PROTOCOLS.get(port.protocol)
        if number is not None and (name := imported.get((port.port, int(number)))) is not None:
            found[port.name] = name
    return found
