"""What a policy object is read against, and what reading one gives.

A parser is a function of (object, Context) alone, so that a policy can be read again when what it refers to changes,
and offline from files. It never fails for what is in the object: see Problem. `Parsed.uses` says what the result
depended on, so that nobody has to read everything again for every Service that changes.
"""

from collections.abc import Mapping
from enum import Enum

import msgspec

from isthmus.policy.rules import Grade, ObjectRef, Policy, Problem, Scope

NO_NAMES = "names are not learned: no DNS proxy"
"""What is said of rules by name where there is none."""


class CidrGroup(msgspec.Struct, frozen=True):
    """A CiliumCIDRGroup: `cidrs` as text, as they were written."""

    name: str
    labels: dict[str, str]
    cidrs: tuple[str, ...]


class ServiceFacts(msgspec.Struct, frozen=True):
    """A Service as toServices needs it; `selector` is None where it has none, and then `addresses` are its backends."""

    namespace: str
    name: str
    labels: dict[str, str]
    selector: dict[str, str] | None = None
    addresses: tuple[str, ...] = ()


class Use(Enum):
    """What a reading depended on besides the object."""

    CIDR_GROUPS = "CiliumCIDRGroup"
    SERVICES = "Service"


class Context(msgspec.Struct, frozen=True):
    """The cluster that holds the object, its default scope, and what objects may refer to.

    `dns_proxy` says that DNS is proxied and names are learned: then rules by name, and DNS rules, are enforced.
    """

    cluster: str
    scope: Scope = Scope.CLUSTERSET
    cidr_groups: Mapping[str, CidrGroup] = {}
    services: Mapping[tuple[str, str], ServiceFacts] = {}
    dns_proxy: bool = False


class Parsed(msgspec.Struct, frozen=True):
    """One object: its independent policies (several for Cilium's `specs`), and all problems with it.

    `policies` can be enforced as they are, whatever the problems: what was not understood fails closed.
    """

    ref: ObjectRef
    policies: tuple[Policy, ...]
    problems: tuple[Problem, ...] = ()
    uses: frozenset[Use] = frozenset()
    generation: int = 0

    @property
    def valid(self) -> bool:
        """Tells whether the owner of the API would accept the object."""
        return not any(problem.grade is Grade.INVALID for problem in self.problems)
