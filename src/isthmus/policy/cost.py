"""What a policy may cost the kernel, and what becomes of one that would cost more.

Without a bound anyone who may write policies could stop the agents: peers times ports is soon millions. It is counted
from the policy alone, so that one is refused everywhere or nowhere; how many pods a selector finds is not known here.
A policy over the bound is refused as a whole, with both numbers, because half a policy is one that nobody wrote. What
is left of it is closed: it isolates wherever it speaks, allows nothing, and denies all where it denied (or passed)
something. Refusing single rules was rejected: which one is too many depends on the order in which they are written.
"""

from collections.abc import Iterator

import msgspec

from isthmus.policy.context import Parsed
from isthmus.policy.rules import Action, CidrPeer, Policy, Port, PortRange, Problem, Rule, Tier

MAX_COST = 100_000
"""Set elements and rules that one object may need, as `cost` counts them: some seconds of work, some ten megabytes."""
IDENTITIES = 32  # that a selector is taken to match
MOST_SINGLES = 16  # ports of a range that are written out one by one, for pods; a longer one is `aligned` at worst
MOST_PAIRS = 20_000
"""Of networks and ports, that the compiler writes out for one pod before it puts up with a rule for each group."""


def cost(policy: Policy) -> int:
    """Returns about what becomes of a policy in the kernel, in set elements and rules."""
    return sum(map(_cost, policy.rules))


def _cost(rule: Rule) -> int:
    """Returns every identity with every port, and networks with ports as the compiler puts them together.

    An exception splits a network into one for each bit of its length, at worst. A port of pods is an element for each
    identity, of which there may be thousands: what those come to, the compiler counts and bounds (`too_large`). A long
    range of ports is one set, or aligned blocks where many of them meet: these count, 44 at most.
    """
    ports = max(1, len(rule.ports or ()))
    singles = max(1, sum(map(_singles, rule.ports or ())))
    selected = networks = 0
    for peer in rule.peers if rule.peers is not None else ():
        match peer:
            case CidrPeer(network, excepts):
                networks += 1 + sum(max(0, hole.prefixlen - network.prefixlen) for hole in excepts)
            case _:
                selected += IDENTITIES
    return max(ports, selected * singles + min(networks * ports, networks + ports + MOST_PAIRS))


def _singles(port: Port) -> int:
    if not isinstance(port, PortRange) or port.whole:
        return 1
    length = port.last - port.first + 1
    return length if length <= MOST_SINGLES else sum(1 for _ in aligned(port.first, port.last))


def aligned(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yields the fewest blocks of a power of four that make up a range: the bits that count as zero, and the base."""
    while first <= last:
        bits = 0
        while bits < 14 and first % (4 << bits) == 0 and first + (4 << bits) - 1 <= last:
            bits += 2
        yield bits, first
        first += 1 << bits


def bounded(parsed: Parsed, limit: int = MAX_COST) -> Parsed:
    """Returns `parsed` if what it needs is within `limit`; else what is left of it, with a problem that says so."""
    needed = sum(map(cost, parsed.policies))
    if needed <= limit:
        return parsed
    problem = Problem("spec", f"needs {needed} set elements and rules; a policy may need at most {limit}")
    problems = (*parsed.problems, problem)
    policies = tuple(
        msgspec.structs.replace(_closed(policy), problems=(*policy.problems, problem)) for policy in parsed.policies
    )
    return msgspec.structs.replace(parsed, policies=policies, problems=problems)


def _closed(policy: Policy) -> Policy:
    denied = {rule.direction: rule for rule in reversed(policy.rules) if rule.action is not Action.ALLOW}
    rules = tuple(
        msgspec.structs.replace(rule, peers=None, ports=None, action=Action.DENY)
        for rule in sorted(denied.values(), key=lambda rule: rule.direction.value)
    )
    isolates = policy.directions if policy.tier is Tier.NORMAL else policy.isolates
    return msgspec.structs.replace(policy, isolates=isolates, rules=rules)
