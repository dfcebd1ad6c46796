"""What a client of one cluster may see of a service that two clusters have: written down once more, and simply.

A test that compares traffic with this does not use the rules of the product. Names of clusters are as in the answers.
"""

from dataclasses import dataclass, field, replace

HERE, THERE = "Koornacht", "Tion"


@dataclass(frozen=True)
class Side:
    """The Service and its pods in one cluster."""

    pods: int = 2
    is_global: bool = True
    shared: bool = True


@dataclass(frozen=True)
class Setting:
    """How things stand, for a client in HERE."""

    here: Side = field(default_factory=Side)
    there: Side = field(default_factory=Side)
    affinity: str = "none"
    drained: bool = False
    """THERE is being left."""
    parted: bool = False
    """No packet goes from one cluster to the other."""
    denied: bool = False
    """A policy THERE lets nobody from HERE in."""

    def with_side(self, name: str, **changes: object) -> "Setting":
        """Returns the setting with something else in one cluster."""
        side = "here" if name == HERE else "there"
        return replace(self, **{side: replace(getattr(self, side), **changes)})

    @property
    def pool(self) -> set[str]:
        """Returns the clusters that new connections are sent to."""
        both = self.here.is_global and self.there.is_global and self.there.shared
        near = {HERE} if self.here.pods else set()
        far = {THERE} if both and self.there.pods else set()
        alive = far if not (self.drained or self.parted) else set()
        order = {"none": [near | alive], "local": [near, alive], "remote": [alive, near]}[self.affinity]
        # What is drained is used when nothing else is left; what cannot be reached comes last of all.
        return next((tier for tier in (*order, far) if tier), set())

    @property
    def may_answer(self) -> set[str]:
        """Returns the clusters from which answers come."""
        silent = {THERE} if self.parted or self.denied else set()
        return self.pool - silent

    @property
    def may_fail(self) -> str:
        """Returns why a request may fail although nothing changes, "" if none may."""
        if not self.pool:
            return "no cluster has a backend that may be used"
        if self.denied and THERE in self.pool:
            return "a policy denies what the service leads to"
        if self.parted and self.pool == {THERE}:
            return "the only backends left cannot be reached"
        return ""
