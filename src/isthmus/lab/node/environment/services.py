"""Variables that name the services of a pod's namespace (enableServiceLinks), in both of the forms that exist.

A Service without a cluster address has none. `kubernetes` of the namespace `default` is named everywhere, even where
links are switched off. Reference: Kubernetes documentation, "Discovering services".
"""

from collections.abc import Iterable

from isthmus.kube.schema import Service

MASTER = ("default", "kubernetes")


def service_variables(services: Iterable[Service], *, namespace: str, links: bool) -> dict[str, str]:
    """Returns the variables for a pod of `namespace`."""
    chosen: dict[str, Service] = {}
    for service in services:
        place = (service.metadata.namespace, service.metadata.name)
        if service.spec.clusterIP in ("", "None") or not service.spec.ports:
            continue
        if (links and place[0] == namespace) or (place == MASTER and place[1] not in chosen):
            chosen[place[1]] = service
    variables: dict[str, str] = {}
    for name in sorted(chosen):
        variables |= _of(chosen[name])
    return variables


def _of(service: Service) -> dict[str, str]:
    prefix = _word(service.metadata.name)
    address = service.spec.clusterIP
    first = service.spec.ports[0]
    result = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(first.port)}
    for port in service.spec.ports:
        if port.name:
            result[f"{prefix}_SERVICE_PORT_{_word(port.name)}"] = str(port.port)
    host = f"[{address}]" if ":" in address else address
    for index, port in enumerate(service.spec.ports):
        protocol = port.protocol or "TCP"
        url = f"{protocol.lower()}://{host}:{port.port}"
        if index == 0:
            result[f"{prefix}_PORT"] = url
        place = f"{prefix}_PORT_{port.port}_{protocol.upper()}"
        result |= {
            place: url,
            f"{place}_PROTO": protocol.lower(),
            f"{place}_PORT": str(port.port),
            f"{place}_ADDR": address,
        }
    return result


def _word(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")
