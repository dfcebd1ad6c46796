"""The layout of the service part of table `inet isthmus`: what is there however many services there are.

Everything about a service is elements; nothing here grows with services or backends. A packet that opens a connection
meets `services4` (frontend -> what becomes of it, as a number in the packet's priority), which the map `fates` turns
into a chain: refuse, discard, or pick. `pick_N` puts a random slot below N into the priority, and one look-up of
frontend and slot in `backends4` is the translation. Numbers and not verdicts are kept per frontend, because the kernel
walks every element of every verdict map whenever one of them, or a rule, changes.

A backend that counts for more than others has more slots (see `isthmus.ruleset.seats`). They are counted from 0
without holes, but N is one of a series of sizes, at most an eighth too large: a slot that is not there is a miss, and a
miss picks again. So there is a fixed number of these chains, a change of one backend is one or two elements, and the
spread stays even: after three misses (one connection in 700 at worst) it is picked below the next smaller size, which
never misses.

A transaction is atomic for each look-up of a packet and not for all of them together: one that is under way may meet
the size from before a change and the backends from after it, and find its slot gone, or its token. It is then given
slot 0, which is there as long as there is any backend. While the whole table is replaced, what is under way in the old
one finds all its maps empty and its sets full: it is dropped and not refused, so that its client tries again.

`outside4` and `near4` are the same for clients that are neither pods of this node nor the node, of frontends that serve
those with local backends only (externalTrafficPolicy: Local).

Session affinity: such a frontend leads from slot to *token* (`tokens4`), a number that depends on the backend alone,
and from token to backend. A client's token is remembered by the packet path in `affinity4`; the token of a backend that
is gone leads nowhere, and the client is given another. Numbers of slots could not be remembered: they change hands.

A connection that leaves is masqueraded only where its answers would not come back by this node otherwise: a pod that is
sent to itself, and a client from elsewhere that is sent elsewhere. So a local backend sees its client, whatever
externalTrafficPolicy says.

Nothing touches marks. The scratch is the priority, as in the policy part, and is taken back at postrouting from the
first packet of every connection with a translated destination (IPv4 forwarding overwrites it anyway). Rejected: a chain
per service, as kube-proxy has; see
docs/decisions.md.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from isthmus.model.service import Network
from isthmus.ruleset.layout import PODS, SELF
from isthmus.ruleset.rules import (
    AddressIn,
    Chain,
    Drop,
    Expr,
    Family,
    Forget,
    GoBy,
    GoTo,
    JumpTo,
    Keep,
    KeepFrom,
    KeepHash,
    KeepRandom,
    Lookup,
    Masquerade,
    Refuse,
    Remember,
    Return,
    Rule,
    Translate,
    Translated,
)
from isthmus.ruleset.sets import Field, Holds, Jump, SetSpec

# Priorities order NAT chains among each other only, here before a kube-proxy's: the kernel translates at -100 anyway.
# What a filter refuses before that, as kube-proxy's nftables mode does at output, never gets here.
PREROUTING = "type nat hook prerouting priority dstnat - 5; policy accept;"
OUTPUT = "type nat hook output priority -105; policy accept;"
POSTROUTING = "type nat hook postrouting priority srcnat - 1; policy accept;"
HOOKED = ("services_prerouting", "services_output", "services_postrouting")

_ADDRESS = {4: Field.IPV4, 6: Field.IPV6}
_TARGET = {4: Holds.TARGET4, 6: Holds.TARGET6}
REMEMBERED = 1 << 18
"""Clients whose backend is remembered, of all services together, in each family; more are served without."""


def _pair(name: str, *rest: Field, holds: Holds | None = None) -> dict[int, SetSpec]:
    return {v: SetSpec(f"{name}{v}", (_ADDRESS[v], *rest), holds) for v in (4, 6)}


_FRONTEND = (Field.PROTOCOL, Field.PORT)
SERVICES = _pair("services", *_FRONTEND, holds=Holds.IDENTITY)
OUTSIDE = _pair("outside", *_FRONTEND, holds=Holds.IDENTITY)
BACKENDS = {v: SetSpec(f"backends{v}", (_ADDRESS[v], *_FRONTEND, Field.IDENTITY), _TARGET[v]) for v in (4, 6)}
NEAR = {v: SetSpec(f"near{v}", (_ADDRESS[v], *_FRONTEND, Field.IDENTITY), _TARGET[v]) for v in (4, 6)}
TOKENS = _pair("tokens", *_FRONTEND, Field.IDENTITY, holds=Holds.IDENTITY)
NEAR_TOKENS = _pair("near_tokens", *_FRONTEND, Field.IDENTITY, holds=Holds.IDENTITY)
STICKY = _pair("sticky", *_FRONTEND, holds=Holds.VERDICT)
GUARDED = _pair("guarded", *_FRONTEND, holds=Holds.VERDICT)
KEPT = _pair("kept", *_FRONTEND)
AFFINITY = {
    4: SetSpec("affinity4", (Field.IPV4, Field.IPV4, *_FRONTEND), Holds.IDENTITY, REMEMBERED),
    6: SetSpec("affinity6", (Field.IDENTITY,), Holds.IDENTITY, REMEMBERED),
}
VIRTUAL = _pair("virtual")
TARGETS = _pair("targets", *_FRONTEND)
FATES = SetSpec("fates", (Field.IDENTITY,), Holds.VERDICT)
SETS = (SERVICES, OUTSIDE, BACKENDS, NEAR, TOKENS, NEAR_TOKENS, GUARDED, STICKY, KEPT, AFFINITY, VIRTUAL, TARGETS)

EXACT = 16
"""Up to so many slots every number has a chain of its own; from there on, eight sizes to each doubling."""

MOST_SLOTS = 1 << 16
MOST_NEAR = 1 << 10

SIZES: tuple[int, ...] = (
    *range(1, EXACT + 1),
    *(
        size
        for octave in range(4, 16)
        for size in range((1 << octave) + (1 << octave - 3), (2 << octave) + 1, 1 << octave - 3)
    ),
)
"""The series of sizes, ascending."""

NEAR_PICK = 1 << 16
REFUSED = 2 << 16 | 1
DISCARDED = 2 << 16 | 2


def size_for(slots: int) -> int:
    """Returns the least size of the series that holds so many slots (1 to MOST_SLOTS)."""
    return SIZES[bisect_left(SIZES, slots)]


_SOURCE = {4: Expr.HEADER_SOURCE4, 6: Expr.HEADER_SOURCE6}
_DESTINATION = {4: Expr.HEADER_TARGET4, 6: Expr.HEADER_TARGET6}
_PORT = (Expr.PROTOCOL, Expr.DESTINATION_PORT)
_KEY = {v: (_DESTINATION[v], *_PORT) for v in (4, 6)}
_SLOT = {v: (*_KEY[v], Expr.SCRATCH) for v in (4, 6)}
_CLIENT = {4: (_SOURCE[4], *_KEY[4]), 6: (Expr.CLIENT6,)}
_OPENER = {4: Expr.SOURCE4, 6: Expr.SOURCE6}
_BACKEND = {4: Expr.TARGET4, 6: Expr.TARGET6}


def remembering(seconds: int) -> Chain:
    """Returns the chain for one time-out of session affinity."""
    rules = tuple(Rule((Remember(_CLIENT[v], AFFINITY[v].name, seconds),)) for v in (4, 6))
    return Chain(f"remember_{seconds}", rules, comment=f"session affinity for {seconds} s")


def guarding(sources: Iterable[Network]) -> Chain:
    """Returns the chain that lets only clients from `sources` go on."""
    networks = [*collapse_addresses(n for n in sources if isinstance(n, IPv4Network))]
    networks6 = [*collapse_addresses(n for n in sources if isinstance(n, IPv6Network))]
    rules = [
        Rule((AddressIn(_SOURCE[v], tuple(mine)) if mine[0].prefixlen else Family(v), Return()))
        for v, mine in ((4, networks), (6, networks6))
        if mine
    ]
    text = " ".join(map(str, (*networks, *networks6)))
    name = f"guard_{blake2b(text.encode(), digest_size=6).hexdigest()}"
    return Chain(name, (*rules, Rule((Drop(),))), comment=f"only from {text}")


def fates() -> Iterator[tuple[int, Jump]]:
    """Yields the content of the map `fates`."""
    for size in SIZES:
        yield size, Jump(f"pick_{size}")
        if size <= MOST_NEAR:
            yield NEAR_PICK | size, Jump(f"near_{size}")
    yield REFUSED, Jump("refuse")
    yield DISCARDED, Jump("discard")


def service_chains() -> Iterator[Chain]:
    """Yields the chains that are there as long as services are ours."""
    yield Chain("refuse", (Rule((Refuse(True),)), Rule((Refuse(False),))), comment="services without backends")
    closed = (Rule((Keep(REFUSED),)), Rule((GoBy((Expr.SCRATCH,), FATES.name),)), Rule((Drop(),)))
    yield Chain("closed", closed, comment="ports that a ClusterIP does not have; silent while the table is replaced")
    yield Chain("discard", (Rule((Drop(),)),), comment="no local backend where only local ones may be used")
    for name, backend in (("choose", "backend"), ("choose_near", "near_backend")):
        first = (Rule((KeepRandom(1),)), Rule((JumpTo(backend),)))
        yield Chain(name, (Rule((GoBy((Expr.SCRATCH,), FATES.name),)), *first, Rule((Keep(0),))))
    for prefix, maps, tokens in (("backend", BACKENDS, TOKENS), ("near_backend", NEAR, NEAR_TOKENS)):
        for v in (4, 6):
            anew = (
                Rule((Forget(_CLIENT[v], AFFINITY[v].name),)),
                Rule((GoBy(_KEY[v], STICKY[v].name),)),
                Rule((Translate(v, _SLOT[v], maps[v].name),)),
            )
            yield Chain(f"{prefix}_new{v}", anew, comment="remembers the client's backend")
            again = (Rule((GoBy(_KEY[v], STICKY[v].name),)), Rule((Translate(v, _SLOT[v], maps[v].name),)))
            yield Chain(f"{prefix}_again{v}", again, comment="the backend that the client had before, if it is there")
            if v == 4:
                known = [Rule((KeepFrom(_CLIENT[v], AFFINITY[v].name), JumpTo(f"{prefix}_again{v}")))]
            else:
                known = [
                    Rule((KeepHash(*_CLIENT[v]),)),
                    Rule((KeepFrom((Expr.SCRATCH,), AFFINITY[v].name), JumpTo(f"{prefix}_again{v}"))),
                ]
            yield Chain(f"{prefix}_known{v}", (*known, Rule((Keep(0),))))
        rules = [
            rule
            for v in (4, 6)
            for rule in (
                Rule((Translate(v, _SLOT[v], maps[v].name),)),
                Rule((KeepFrom(_SLOT[v], tokens[v].name), JumpTo(f"{prefix}_new{v}"))),
            )
        ]
        yield Chain(prefix, tuple(rules), comment="a slot to its backend")
    for prefix, backend, most in (("pick", "backend", MOST_SLOTS), ("near", "near_backend", MOST_NEAR)):
        for index, size in enumerate(SIZES):
            if size <= most:
                tries = [size] if size <= EXACT else [size, size, size, SIZES[index - 1]]
                yield Chain(f"{prefix}_{size}", tuple(_tries(tries, backend)))
    yield from entry_chains()
    for v in (4, 6):
        # First what a packet of a pod that is not sent to itself fails at once.
        itself = Lookup((_OPENER[v], _BACKEND[v]), SELF[v].name)
        outsider = Lookup((_OPENER[v],), PODS[v].name, True)
        elsewhere = Lookup((_BACKEND[v],), PODS[v].name, True)
        ours = Lookup(_KEY[v], TARGETS[v].name)
        yield Chain(
            f"services_leave{v}",
            (
                Rule((Keep(0),)),
                Rule((itself, ours, Masquerade())),
                Rule((outsider, elsewhere, ours, Masquerade())),
            ),
            comment="who must be answered by way of this node",
        )
    leave = (Rule((Family(6), GoTo("services_leave6"))), Rule((GoTo("services_leave4"),)))
    yield Chain("services_out", leave)
    yield Chain(HOOKED[0], (Rule((Family(6), GoTo("services_in6"))), Rule((GoTo("services_in4"),))), hook=PREROUTING)
    yield Chain(HOOKED[1], (Rule((Family(6), GoTo("services_own6"))), Rule((GoTo("services_own4"),))), hook=OUTPUT)
    yield Chain(HOOKED[2], (Rule((Translated(), JumpTo("services_out"))),), hook=POSTROUTING)


def entry_chains(
    *, kept: Collection[int] = (), outside: Collection[int] = (), guarded: Collection[int] = ()
) -> Iterator[Chain]:
    """Yields the chains in which packets arrive.

    `kept` are the families that have frontends with session affinity, `outside` those with frontends that treat clients
    from outside differently, `guarded` those with frontends that not everyone may use: new connections pass no rule for
    any of these where there are none.
    """
    for v in (4, 6):
        known = Rule((Lookup(_KEY[v], KEPT[v].name), JumpTo(f"backend_known{v}")))
        near = Rule((Lookup(_KEY[v], KEPT[v].name), JumpTo(f"near_backend_known{v}")))
        yield Chain(
            f"services_all{v}",
            (
                *((known,) if v in kept else ()),
                Rule((KeepFrom(_KEY[v], SERVICES[v].name), JumpTo("choose"))),
                Rule((Lookup((_DESTINATION[v],), VIRTUAL[v].name), JumpTo("closed"))),
            ),
        )
        yield Chain(
            f"services_outside{v}",
            (
                *((near,) if v in kept else ()),
                Rule((KeepFrom(_KEY[v], OUTSIDE[v].name), JumpTo("choose_near"))),
            ),
            comment="clients that are neither pods of this node nor the node itself",
        )
        apart = Rule((Lookup((_SOURCE[v],), PODS[v].name, True), JumpTo(f"services_outside{v}")))
        guard = (Rule((GoBy(_KEY[v], GUARDED[v].name),)),) if v in guarded else ()
        rest = Rule((GoTo(f"services_all{v}"),))
        yield Chain(f"services_in{v}", (*guard, *((apart,) if v in outside else ()), rest), comment="from elsewhere")
        yield Chain(f"services_own{v}", (*guard, rest), comment="from the node itself")


def _tries(sizes: list[int], backend: str) -> Iterator[Rule]:
    for size in sizes:
        yield Rule((KeepRandom(size),))
        yield Rule((JumpTo(backend),))
