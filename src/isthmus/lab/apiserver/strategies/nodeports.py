"""Node ports of Services, and the one port at which a load balancer asks for health.

Like cluster addresses they are read off the stored Services; a port is one Service's alone, whatever the protocol.
"""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json

NODE_PORTS = range(30000, 32768)
_HEALTH = "healthCheckNodePort"


def needed(spec: Json) -> bool:
    """Tells whether the type has node ports."""
    return spec.get("type") in ("NodePort", "LoadBalancer")


def health_needed(spec: Json) -> bool:
    """Tells whether a load balancer has to ask nodes which of them have pods."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def held(spec: Json) -> set[int]:
    """Returns the ports that a Service has."""
    found = {port.get("nodePort", 0) for port in spec.get("ports", ())} | {spec.get(_HEALTH, 0)}
    return found - {0}


def keep(spec: Json, was: Json) -> None:
    """Takes over what was allocated where an update leaves it out, and drops what its type no longer has."""
    before = {(port.get("port"), port.get("protocol")): port.get("nodePort", 0) for port in was.get("ports", ())}
    for port in spec.get("ports", ()):
        kept = before.get((port.get("port"), port.get("protocol")), 0)
        if needed(spec):
            taken = {other.get("nodePort") for other in spec["ports"] if other is not port}
            if kept and not port.get("nodePort") and kept not in taken:
                port["nodePort"] = kept
        elif needed(was) and port.get("nodePort", 0) in held(was):
            port.pop("nodePort", None)
    if health_needed(spec) and health_needed(was):
        spec.setdefault(_HEALTH, was.get(_HEALTH, 0))
    elif health_needed(was) and spec.get(_HEALTH) == was.get(_HEALTH):
        spec.pop(_HEALTH, None)


def allocate(spec: Json, used: set[int]) -> list[FieldError]:
    """Gives the ports that are missing, or checks those asked for; `used` are those of others."""
    if not needed(spec):
        return []
    taken, found = set(used), []
    ports = spec.get("ports", ())
    for index, port in enumerate(ports):
        number = port.get("nodePort", 0)
        if number:
            text = _refusal(number, taken)
            if text:
                found.append(errors.invalid(f"spec.ports[{index}].nodePort", number, text))
    if found:
        return found
    taken |= held(spec)
    for port in ports:
        if port.get("nodePort") or spec.get("allocateLoadBalancerNodePorts") is False:
            continue
        twins = [
            other["nodePort"] for other in ports if other.get("nodePort") and other.get("port") == port.get("port")
        ]
        port["nodePort"] = twins[0] if twins else _next(taken, "a nodePort")
        taken.add(port["nodePort"])
    if health_needed(spec):
        number = spec.get(_HEALTH, 0)
        text = _refusal(number, used) if number else ""
        if text:
            raise errors.internal(f"failed to allocate requested HealthCheck NodePort {number}: {text}")
        if not number:
            spec[_HEALTH] = _next(taken, "a HealthCheck NodePort 0")
    return []


def _refusal(number: int, taken: set[int]) -> str:
    if number not in NODE_PORTS:
        valid = f"{NODE_PORTS[0]}-{NODE_PORTS[-1]}"
        return f"provided port is not in the valid range. The range of valid ports is {valid}"
    return "provided port is already allocated" if number in taken else ""


def _next(taken: set[int], noun: str) -> int:
    free = next((number for number in NODE_PORTS if number not in taken), None)
    if free is None:
        raise errors.internal(f"failed to allocate {noun}: range is full")
    return free
