"""policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy -> Policy, in the Admin or the Baseline tier.

Semantics: reference policy-apis §1.2-1.5, of both channels of the API. We enforce the experimental one, which has all
of the other; `Channel.STANDARD` says what a cluster with that build of the definitions would refuse.
Believing that the API server has checked an object was rejected: it checks what its channel knows, and a file nothing.
"""

from collections.abc import Mapping
from enum import Enum

from isthmus.model.flow import Protocol
from isthmus.policy.context import Context, Parsed
from isthmus.policy.fields import Reader, show
from isthmus.policy.ordered.objects import UNKNOWN_PLACE, Dialect, Place, number, read_ordered
from isthmus.policy.ordered.peers import one_of
from isthmus.policy.rules import Action, Port, PortName, PortRange, Tier

KIND = "ClusterNetworkPolicy"
LAST_PRIORITY = 1000
ACTIONS = {"Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}
TIERS = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "sctp": Protocol.SCTP}
_PORT_WORDS = frozenset({*PROTOCOLS, "destinationNamedPort"})
_FIELDS = frozenset({"tier", "priority", "subject", "ingress", "egress"})


class Channel(Enum):
    """Which build of the definitions a cluster has."""

    STANDARD = "standard"
    EXPERIMENTAL = "experimental"


def read(obj: Mapping[str, object], context: Context, *, channel: Channel = Channel.EXPERIMENTAL) -> Parsed:
    """Reads a ClusterNetworkPolicy, which is one policy; raises ValueError only if the object has no name."""
    return read_ordered(obj, context, _DIALECTS[channel], _place)


def _place(spec: Mapping[str, object], reader: Reader) -> Place:
    tier = None
    if spec.get("tier") is None:
        reader.complain("spec.tier", "Required value")
    else:
        word = spec["tier"]
        tier = TIERS.get(word) if isinstance(word, str) else None
        if tier is None:
            reader.complain("spec.tier", f'Unsupported value: {show(word)}: supported values: "Admin", "Baseline"')
    priority = number(spec, "priority", reader, low=0, high=LAST_PRIORITY)
    return Place(tier, priority) if tier is not None and priority is not None else UNKNOWN_PLACE


def _port(reader: Reader, entry: Mapping[str, object], field: str) -> Port | None:
    word = one_of(reader, entry, field, _PORT_WORDS)
    if word is None:
        return None
    if word == "destinationNamedPort":
        return named_port(reader, entry[word], f"{field}.{word}")
    path = f"{field}.{word}"
    transport = reader.mapping(entry[word], path)
    if transport is None or one_of(reader, transport, path, frozenset({"destinationPort"})) is None:
        return None
    path = f"{path}.destinationPort"
    destination = reader.mapping(transport["destinationPort"], path)
    if destination is None:
        return None
    match one_of(reader, destination, path, frozenset({"number", "range"})):
        case "number":
            only = reader.number(destination["number"], f"{path}.number", low=1, high=65535)
            return PortRange(PROTOCOLS[word], only, only) if only is not None else None
        case "range":
            ends = port_range(reader, destination["range"], f"{path}.range")
            if ends is not None and ends[0] == ends[1]:
                reader.complain(f"{path}.range", "Start port must be less than End port")
            elif ends is not None:
                return PortRange(PROTOCOLS[word], *ends)
    return None


def named_port(reader: Reader, value: object, field: str) -> PortName | None:
    """Returns a container port by name, of whatever protocol that has."""
    if not isinstance(value, str):
        reader.complain(field, f"must be a string, is {show(value)}")
        return None
    name = reader.port_name(value, field)
    return PortName(0, name) if name is not None else None


def port_range(
    reader: Reader, value: object, field: str, others: frozenset[str] = frozenset()
) -> tuple[int, int] | None:
    """Returns `start` and `end` of a range, which may have the fields `others` besides."""
    entry = reader.mapping(value, field)
    if entry is None:
        return None
    before = len(reader.problems)
    for unknown in sorted(entry.keys() - {"start", "end"} - others):
        reader.complain(f"{field}.{unknown}", "is not a known field; should be start and end")
    ends = [reader.number(entry.get(key), f"{field}.{key}", low=1, high=65535) for key in ("start", "end")]
    first, last = ends
    if first is None or last is None or len(reader.problems) > before:
        return None
    if last < first:
        reader.complain(field, "Start port must be less than End port")
        return None
    return first, last


_DIALECTS = {
    Channel.EXPERIMENTAL: Dialect(
        KIND,
        ACTIONS,
        25,
        "protocols",
        _port,
        frozenset({"namespaces", "pods", "networks", "nodes", "domainNames"}),
        _FIELDS,
    ),
    Channel.STANDARD: Dialect(
        KIND,
        ACTIONS,
        25,
        "protocols",
        _port,
        frozenset({"namespaces", "pods", "networks"}),
        _FIELDS,
        names_ports_of_networks=True,
    ),
}
