"""Who may ask what of which DNS server: the decision of a DNS proxy, without the proxy.

A packet to a DNS server is judged like any other; this is about the question in it, and only once the packet may pass
(reference: cilium-policy §4.2 and §4.4). Invariant: of all allowances that cover the server and its port, those for the
fewest ports decide, so that a wide one beside a narrow one with names does not open every name. Taking the union of all
of them was rejected for that: it would let `toEntities: [all]` undo every list of names.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import msgspec

from isthmus.model.endpoint import NamedPort
from isthmus.model.identity import THE_WORLD, Identity
from isthmus.policy.cilium.entries import Asking
from isthmus.policy.cilium.objects import read_drafts
from isthmus.policy.context import Context
from isthmus.policy.evaluate import resolve
from isthmus.policy.names import absolute
from isthmus.policy.rules import (
    LAST_PORT,
    Action,
    Direction,
    Policy,
    Port,
    PortName,
    PortRange,
    means,
)

_ANY = 256 * (LAST_PORT + 1)
"""How many ports an allowance without ports has, of all protocols."""


class Server(msgspec.Struct, frozen=True):
    """Whom a question is for: an address (canonical text), who holds it, and the ports that a pod there declares."""

    address: str
    identity: Identity = THE_WORLD
    named_ports: tuple[NamedPort, ...] = ()
    names: frozenset[str] = frozenset()


class Questions(msgspec.Struct, frozen=True):
    """What the subjects of `policy` may ask, as far as that policy says."""

    policy: Policy
    asking: tuple[Asking, ...]


def read_questions(obj: Mapping[str, object], context: Context) -> tuple[Questions, ...]:
    """Reads what an object of Cilium's kinds says of questions, one item for each of its policies.

    Raises ValueError as objects.read does.
    """
    _, _, drafts = read_drafts(obj, context)
    return tuple(Questions(draft.policy, draft.asking) for draft in drafts if draft.policy is not None)


def without_names(policy: Policy) -> Questions:
    """Returns what a policy of a kind that knows no names says of questions: where packets may go, all may be asked."""
    rules = (rule for rule in policy.rules if rule.direction is Direction.EGRESS and rule.action is Action.ALLOW)
    return Questions(policy, tuple(Asking(rule.peers, rule.ports) for rule in rules))


def may_ask(
    asking: Iterable[Asking], server: Server, *, protocol: int, port: int, question: str, isolated: bool = True
) -> bool:
    """Tells whether a pod with all of these allowances may ask `server` for `question` (its name, whatever its type).

    `protocol` is the IP protocol (UDP or TCP) and `port` the server's, after translation. If nothing isolates the pod
    in egress (`isolated` false), names are only watched. Without any allowance that covers the server, it may not.
    """
    name = absolute(question)
    covering = [
        (width, one) for one in asking if (width := _width(one, server, protocol, port)) and _means(one, server)
    ]
    if not covering or not isolated:
        return bool(covering)
    narrowest = min(width for width, _ in covering)
    return any(
        one.names is None or any(pattern.covers(name) for pattern in one.names)
        for width, one in covering
        if width == narrowest
    )


def _means(one: Asking, server: Server) -> bool:
    address = ip_address(server.address)
    return one.peers is None or any(means(peer, address, server.identity, server.names) for peer in one.peers)


def _width(one: Asking, server: Server, protocol: int, port: int) -> int:
    """Returns how many ports the narrowest of its ports has that is meant here; 0 if none is."""
    if one.ports is None:
        return _ANY
    widths = [
        number.last - number.first + 1
        for each in one.ports
        for number in _ranges(each, server)
        if number.matches(protocol, port)
    ]
    return min(widths, default=0)


def _ranges(port: Port, server: Server) -> list[PortRange]:
    if isinstance(port, PortName):
        return resolve(port, server.named_ports)
    return [port] if isinstance(port, PortRange) else []
