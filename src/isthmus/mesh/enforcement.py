"""Whether the kernels of a cluster's nodes have a policy object as it is now, and since when. Pure.

Agents say once for all of a kind up to which resourceVersion they are (`MeshNode.status.policies`), and besides which
objects changed last and which are not enforced as written. Invariants: a node that says nothing enforces nothing, so a
node without agent, one that does not report and one that has fallen silent are told as such; an object that was
deleted and made again is another one, also under the same generation. Rejected: a status for each object on each node,
which is thousands of writes for a node that starts.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import msgspec

from isthmus.kube.meshobjects import MeshNode, PoliciesOnNode, PolicyException, RecentPolicy
from isthmus.policy.metadata import generation
from isthmus.policy.rules import ObjectRef

Place = tuple[str, str, str]
"""Kind, namespace ("" where the kind has none) and name."""

SILENT_AFTER = 180.0
"""Seconds without a heartbeat after which nobody knows what a node does; agents renew it every 60."""

MOST_RECENT = 64
"""Changes that an agent remembers; with fewer of them, it remembers all since it started."""

NO_AGENT = "no agent runs there"
UNTOLD = "its agent does not report policies"


class Standing(Enum):
    """How a node stands to an object."""

    ENFORCED = "Enforced"
    PARTIAL = "PartiallyEnforced"
    PENDING = "Pending"
    """The kernel there has an older version, or none."""
    INVALID = "Invalid"
    """Its subjects are isolated: there is no valid version to enforce."""
    KEPT = "Kept"
    """The last valid version is in force."""
    REFUSED = "Refused"
    SILENT = "NoHeartbeat"
    UNTOLD = "NotReported"
    NO_AGENT = "NoAgent"

    @property
    def counts(self) -> bool:
        """Whether the object is in the kernel as it is now, as far as it can be enforced at all."""
        return self in (Standing.ENFORCED, Standing.PARTIAL)


class PolicyVersion(msgspec.Struct, frozen=True):
    """One version of a policy object; `generation` 0 where the server keeps none, `created` is RFC 3339."""

    kind: str
    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    version: str = ""
    """The resourceVersion; of several with the same generation, any."""
    created: str = ""

    @property
    def ref(self) -> ObjectRef:
        """Returns what names the object."""
        return ObjectRef(self.kind, self.namespace, self.name, self.uid)

    @property
    def place(self) -> Place:
        """Returns where it is."""
        return self.kind, self.namespace, self.name

    @property
    def number(self) -> int:
        """Returns the resourceVersion as a number, -1 if it is none."""
        return number_of(self.version)


class OnNode(msgspec.Struct, frozen=True):
    """An object on a node; `message` says why it is not enforced, or not as a whole.

    `since` (RFC 3339, "" if nobody knows) is when the kernel got it, or where `exact` is false a time at which it had
    it already.
    """

    node: str
    standing: Standing
    message: str = ""
    since: str = ""
    exact: bool = False


class Enforcement(msgspec.Struct, frozen=True):
    """An object on all nodes of its cluster, in the order of their names."""

    policy: PolicyVersion
    nodes: tuple[OnNode, ...]

    @property
    def enforced(self) -> int:
        """Returns on how many nodes the kernel has it."""
        return sum(node.standing.counts for node in self.nodes)

    @property
    def total(self) -> int:
        """Returns how many nodes there are."""
        return len(self.nodes)

    @property
    def everywhere(self) -> bool:
        """Tells whether every node has it; of a cluster without nodes nothing can be said."""
        return bool(self.nodes) and self.enforced == self.total

    @property
    def lagging(self) -> tuple[OnNode, ...]:
        """Returns the nodes that do not have it as it is written, and why."""
        return tuple(node for node in self.nodes if node.standing is not Standing.ENFORCED)

    @property
    def since(self) -> tuple[str, bool]:
        """Returns since when the nodes that have it do, and whether that is exact; False: since then at the latest.

        ("", False) where no node has it.
        """
        having = [node for node in self.nodes if node.standing.counts and node.since]
        exact = [node.since for node in having if node.exact]
        times = exact or [node.since for node in having]
        return (max(times, key=_seconds), bool(exact)) if times else ("", False)


class NodeReport:
    """What one node says, prepared for many questions."""

    def __init__(self, node: str, mesh_node: MeshNode | None) -> None:
        self.node = node
        self._agent = mesh_node is not None
        status = mesh_node.status if mesh_node is not None else None
        self._heartbeat = status.heartbeat if status is not None else ""
        self._beat = _seconds(self._heartbeat)
        self.told: PoliciesOnNode | None = status.policies if status is not None else None
        """None if there is nothing that tells of policies."""
        self.recent: dict[Place, RecentPolicy] = {}
        self.exceptions: dict[Place, PolicyException] = {}
        self._bound = ""
        self._watermarks: dict[str, int] = {}
        told = self.told
        if told is None:
            return
        for recent in told.recent:
            self.recent[recent.kind, recent.namespace, recent.name] = recent  # the last one counts
        self.exceptions = {(one.kind, one.namespace, one.name): one for one in told.exceptions}
        full = len(told.recent) >= MOST_RECENT
        self._bound = min((one.since for one in told.recent), key=_seconds) if full else told.since
        self._watermarks = {kind: number_of(version) for kind, version in told.watermarks.items()}

    def watermark(self, kind: str) -> int:
        """Returns up to which resourceVersion the kernel there has everything of a kind; -1 if that is not said."""
        return self._watermarks.get(kind, -1)

    def fault(self, now: float) -> OnNode | None:
        """Returns what stands in the way of every object there at `now` (Unix seconds); None if nothing does."""
        if not self._agent:
            return OnNode(self.node, Standing.NO_AGENT, NO_AGENT)
        if now - self._beat > SILENT_AFTER:
            last = f"no heartbeat since {self._heartbeat}" if self._heartbeat else "no heartbeat yet"
            return OnNode(self.node, Standing.SILENT, last)
        if self.told is None:
            return OnNode(self.node, Standing.UNTOLD, UNTOLD)
        return None

    def of(self, policy: PolicyVersion) -> OnNode:
        """Returns how an object stands there, if the agent is well.

        A node tells of so many exceptions only (`moreExceptions` counts the others): whether an object is valid at all
        is to be asked of the object as well.
        """
        if self.told is None:
            return OnNode(self.node, Standing.UNTOLD, UNTOLD)
        recent = self.recent.get(policy.place)
        # A generation counts from 1 again when an object is made anew under its old name. Where clocks differ by more
        # than that, the watermark says it.
        known = recent is not None and (
            recent.generation == policy.generation > 0 and _seconds(recent.since) >= _seconds(policy.created)
        )
        found = self.exceptions.get(policy.place)
        if found is not None and policy.generation and found.generation != policy.generation:
            found = None
        # Where an earlier version stays there is nothing to wait for: what the node says of this one is the end of it.
        kept = found is not None and found.state == Standing.KEPT.value and self._beat >= _seconds(policy.created)
        if not known and not kept and not 0 <= policy.number <= self.watermark(policy.kind):
            return OnNode(self.node, Standing.PENDING, "not in its kernel yet")
        since, exact = (recent.since, True) if known and recent is not None else (self._bound, False)
        if found is None:
            return OnNode(self.node, Standing.ENFORCED, since=since, exact=exact)
        standing = _STATES.get(found.state, Standing.REFUSED)
        if not standing.counts:
            since, exact = "", False
        return OnNode(self.node, standing, found.message, since, exact)


_MOST_DIGITS = 20
_STATES = {state.value: state for state in (Standing.PARTIAL, Standing.INVALID, Standing.KEPT, Standing.REFUSED)}


def version_of(obj: Mapping[str, object], kind: object = None) -> PolicyVersion | None:
    """Returns what counts of a policy object (as decoded JSON) here; None if it has no kind or no name.

    `kind` is for items of a list, which do not say it themselves.
    """
    meta = obj.get("metadata")
    if not isinstance(meta, Mapping):
        return None
    kind, name = kind or obj.get("kind"), meta.get("name")
    if not isinstance(kind, str) or not isinstance(name, str) or not kind or not name:
        return None

    def text(key: str) -> str:
        value = meta.get(key)
        return value if isinstance(value, str) else ""

    return PolicyVersion(
        kind, text("namespace"), name, text("uid"), generation(obj), text("resourceVersion"), text("creationTimestamp")
    )


def enforcement(
    objects: Iterable[Mapping[str, object]],
    *,
    mesh_nodes: Iterable[MeshNode],
    nodes: Iterable[str],
    now: float,
) -> list[Enforcement]:
    """Returns how each policy object of a cluster stands on its nodes, in the order of `objects`.

    `nodes` are the names of the cluster's Nodes, and only those count; `now` is in Unix seconds.
    """
    by_name = {mesh_node.metadata.name: mesh_node for mesh_node in mesh_nodes}
    reports = [NodeReport(name, by_name.get(name)) for name in sorted(set(nodes))]
    faults = [report.fault(now) for report in reports]
    return [
        Enforcement(version, _on_nodes(version, reports, faults))
        for version in map(version_of, objects)
        if version is not None
    ]


def _on_nodes(
    version: PolicyVersion, reports: Sequence[NodeReport], faults: Sequence[OnNode | None]
) -> tuple[OnNode, ...]:
    return tuple(fault or report.of(version) for report, fault in zip(reports, faults, strict=True))


def number_of(version: str) -> int:
    """Returns a resourceVersion as the number that it is where two can be compared at all (KEP-5504); else -1."""
    return int(version) if len(version) <= _MOST_DIGITS and version.isascii() and version.isdecimal() else -1


def _seconds(text: str) -> float:
    """Returns RFC 3339 as Unix seconds; 0 for what is no time."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return moment.timestamp() if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC).timestamp()
