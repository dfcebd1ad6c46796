"""What a kind may add to the common life of objects: defaults, preparation, rules.

The handlers call the hooks in this order. On create: `prepare_create`, `default`, `admit`, `validate`, `allocate`. On
update: `default`, `prepare_update`, `validate` (see `ratchets`), `validate_update`, `allocate`; of the status:
`prepare_status`, `validate_status`. On delete: `check_delete` and `grace`. Hooks change the object in place; none does
I/O.
"""

import ipaddress
from collections.abc import Callable

import msgspec

from isthmus.lab.apiserver.changes.calls import Source
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.schema.kinds import Resource
from isthmus.lab.apiserver.storage.state import Transaction
from isthmus.lab.apiserver.strategies import rules

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(msgspec.Struct, frozen=True):
    """What the server was told on its command line and the hooks must know."""

    cluster_name: str = "lab"
    service_networks: tuple[Network, ...] = ()
    pod_networks: tuple[Network, ...] = ()
    service_accounts: bool = False  # whether pods need one that exists, and get its token
    unvalidated: frozenset[str] = frozenset()  # resources (plural.group or plural) whose rules are not checked


class Hooks:
    """The kind without rules of its own; kinds with rules subclass it."""

    name_rule: Callable[[str, str], list[FieldError]] = staticmethod(rules.dns_subdomain)
    ratchets = False
    """Whether `validate_update` also checks what changed by itself, so that `validate` is for new objects only."""

    def __init__(self, resource: Resource, settings: Settings) -> None:
        self.resource = resource
        self.settings = settings

    def prepare_create(self, value: Json) -> None:
        """Clears what a client may not set; by default the status, where that is a subresource."""
        if self.resource.subresource("status"):
            value.pop("status", None)

    def prepare_update(self, value: Json, old: Json) -> None:
        """Restores what an update may not touch; by default the status, where that is a subresource."""
        if self.resource.subresource("status"):
            value.pop("status", None)
            if "status" in old:
                value["status"] = old["status"]

    def prepare_status(self, value: Json, old: Json) -> None:
        """Restores what a status update may not touch: everything but metadata and status."""
        for name in [name for name in value if name not in ("kind", "apiVersion", "metadata", "status")]:
            del value[name]
        value.update((name, item) for name, item in old.items() if name not in ("metadata", "status"))

    def default(self, value: Json) -> None:
        """Fills in what was left out."""

    def admit(self, value: Json, transaction: Transaction, source: Source) -> None:
        """Adds to a new, defaulted object what follows from others; raises ApiError (403) for one that may not be."""

    def validate(self, value: Json) -> list[FieldError]:
        """Checks the object by itself."""
        return []

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Checks what may not change."""
        return []

    def validate_status(self, value: Json, old: Json) -> list[FieldError]:
        """Checks a new status; everything else is as it was."""
        return []

    def allocate(self, value: Json, transaction: Transaction, old: Json | None) -> list[FieldError]:
        """Takes addresses and the like, and checks against other objects; `old` is None for a new one."""
        return []

    def check_delete(self, value: Json) -> None:
        """Raises ApiError if the object cannot be deleted."""

    def grace(self, value: Json, asked: int | None) -> int:
        """Returns for how many seconds (0: at once) a deleted object lives on; `asked` is the client's wish."""
        return 0

    def lingers(self, value: Json) -> bool:
        """Tells whether something besides metadata.finalizers keeps a deleted object."""
        return False

    def mark_deleted(self, value: Json) -> None:
        """Notes a deletion that has begun."""
