"""NetworkPolicy: policyTypes by default, and every rule that the real server checks (networking.k8s.io/v1).

The switch `--skip-validation-for networkpolicies` leaves these rules out, because consumers must survive policies
that older servers and other kinds of client have stored.
"""

import ipaddress

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules
from isthmus.lab.apiserver.strategies.base import Hooks

_TYPES = ("Egress", "Ingress")


class NetworkPolicyHooks(Hooks):
    """networking.k8s.io/v1 NetworkPolicy."""

    def default(self, value: Json) -> None:
        """Sets policyTypes (Ingress, and Egress if there is an egress section) and the protocol of ports."""
        spec = value.setdefault("spec", {})
        spec.setdefault("podSelector", {})
        if not spec.get("policyTypes"):
            spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
        for direction in ("ingress", "egress"):
            for rule in spec.get(direction, ()):
                for port in rule.get("ports", ()):
                    port.setdefault("protocol", "TCP")

    def validate(self, value: Json) -> list[FieldError]:
        """Checks selectors, peers, ports and types."""
        spec = value["spec"]
        found = rules.label_selector(spec["podSelector"], "spec.podSelector")
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for index, rule in enumerate(spec.get(direction, ())):
                path = f"spec.{direction}[{index}]"
                for at, port in enumerate(rule.get("ports", ())):
                    found += _port(port, f"{path}.ports[{at}]")
                for at, peer in enumerate(rule.get(side, ())):
                    found += _peer(peer, f"{path}.{side}[{at}]")
        types = spec["policyTypes"]
        if len(types) > len(_TYPES):
            return [*found, errors.invalid("spec.policyTypes", types, "may not specify more than two policyTypes")]
        for index, word in enumerate(types):
            found += rules.one_of(word, f"spec.policyTypes[{index}]", _TYPES)
        return found


def _port(port: Json, path: str) -> list[FieldError]:
    found = rules.protocol(port.get("protocol", "TCP"), f"{path}.protocol")
    number, end = port.get("port"), port.get("endPort")
    if number is not None:
        found += rules.port_or_name(number, f"{path}.port")
    if end is None:
        return found
    if number is None:
        found.append(errors.required(f"{path}.port", "must be specified when using `endPort`"))
    elif isinstance(number, str):
        found.append(errors.invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric"))
    elif end < number:
        found.append(errors.invalid(f"{path}.endPort", end, "must be greater than or equal to `port`"))
    return found + rules.port_number(end, f"{path}.endPort")


def _peer(peer: Json, path: str) -> list[FieldError]:
    found: list[FieldError] = []
    if not peer:
        return [errors.required(path, "must specify a peer")]
    block = peer.get("ipBlock")
    if block is not None:
        if len(peer) > 1:
            text = "may not specify both ipBlock and another peer"
            found.append(errors.forbidden(path, text))
        return found + _block(block, f"{path}.ipBlock")
    for name in ("podSelector", "namespaceSelector"):
        if name in peer:
            found += rules.label_selector(peer[name], f"{path}.{name}")
    return found


def _block(block: Json, path: str) -> list[FieldError]:
    cidr = block.get("cidr", "")
    if not cidr:
        return [errors.required(f"{path}.cidr")]
    found = rules.network(cidr, f"{path}.cidr")
    if found:
        return found
    outer = ipaddress.ip_network(cidr, strict=False)
    for index, text in enumerate(block.get("except", ())):
        place = f"{path}.except[{index}]"
        bad = rules.network(text, place)
        if not bad:
            inner = ipaddress.ip_network(text, strict=False)
            inside = inner.version == outer.version and inner.network_address in outer
            if not inside or inner.prefixlen <= outer.prefixlen:
                bad = [errors.invalid(place, text, f'must be a strict subset of `cidr` ("{cidr}")')]
        found += bad
    return found
