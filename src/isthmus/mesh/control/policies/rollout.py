"""Which nodes of the own cluster have which policies in their kernel: kept as nodes and policies change. Pure.

There may be thousands of both, so nothing here grows with their product but what is out of order: of a policy only the
nodes that lag are held, and what stands in the way of all policies of a node is held once for that node. Invariants: a
heartbeat that says nothing new concerns no policy; a change of one policy is looked for on a node only where that node
speaks of it or is waited for; a version that was once seen counts by the lowest resourceVersion that it was seen with,
so that a condition that is written does not make everything pending again. A node that is new, or whose agent starts,
does not count until PATIENCE is over. Rejected: asking every node about every policy, which is right and takes seconds.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from isthmus.kube.meshobjects import MeshNode
from isthmus.mesh.enforcement import NodeReport, OnNode, Place, PolicyVersion, Standing

PATIENCE = 60.0
"""Seconds that a new node has until it counts as one without agent."""

NAMED = 3
"""Nodes that are named; the others are a number."""


class Summary(msgspec.Struct, frozen=True):
    """One policy on all nodes that count: how many there are, how many of which standing, and some that lag."""

    total: int
    counts: dict[Standing, int]
    lagging: tuple[OnNode, ...] = ()

    @property
    def everywhere(self) -> bool:
        """Tells whether every node has it, as far as it can be enforced."""
        return self.total > 0 and sum(self.counts.get(standing, 0) for standing in Standing if standing.counts) == (
            self.total
        )

    @property
    def unknown(self) -> bool:
        """Tells whether no node says anything of policies."""
        silent = (Standing.NO_AGENT, Standing.UNTOLD)
        return sum(self.counts.get(standing, 0) for standing in silent) == self.total


class _Tracked(msgspec.Struct):
    version: PolicyVersion
    number: int
    lag: dict[str, Standing]
    """How it stands on nodes that are well, where that is not ENFORCED."""


class Rollout:
    """The policies and nodes. Each method that changes something notes which policies are concerned (`take`)."""

    def __init__(self) -> None:
        self._policies: dict[Place, _Tracked] = {}
        self._by_kind: dict[str, set[Place]] = {}
        self._newest: dict[str, int] = {}
        """The highest resourceVersion of each kind that was ever seen."""
        self._unsettled: set[Place] = set()
        self._nodes: dict[str, float] = {}
        """Since when each node is known."""
        self._reports: dict[str, NodeReport] = {}
        self._well: set[str] = set()
        self._faults: dict[str, OnNode] = {}
        self._dirty: set[Place] = set()
        self._all = False

    def take(self) -> tuple[set[Place], bool]:
        """Returns which policies to look at again since the last call, and whether to look at all others in time."""
        dirty, self._dirty = self._dirty, set()
        everything, self._all = self._all, False
        return dirty, everything

    def summary(self, place: Place) -> Summary:
        """Returns how a policy stands; a policy that is not known stands nowhere."""
        tracked = self._policies.get(place)
        if tracked is None:
            return Summary(0, {})
        counts = Counter(tracked.lag.values())
        counts[Standing.ENFORCED] = len(self._well) - len(tracked.lag)
        counts.update(fault.standing for fault in self._faults.values())
        worst_first = sorted(tracked.lag, key=lambda node: (tracked.lag[node].counts, node))
        lagging = [self._reports[node].of(tracked.version) for node in worst_first[:NAMED]]
        lagging += [self._faults[node] for node in sorted(self._faults)[: NAMED - len(lagging)]]
        return Summary(len(self._well) + len(self._faults), dict(+counts), tuple(lagging))

    # -- policies ----------------------------------------------------------------------------------------------

    def put_policy(self, version: PolicyVersion) -> None:
        """Takes a version of an object; only its status may have changed."""
        place, number = version.place, version.number
        self._newest[version.kind] = max(number, self._newest.get(version.kind, -1))
        known = self._policies.get(place)
        if (
            known is not None
            and known.version.uid == version.uid
            and known.version.generation == version.generation > 0
            and known.number >= 0
        ):
            return
        tracked = self._policies[place] = _Tracked(version, number, {})
        self._by_kind.setdefault(version.kind, set()).add(place)
        for node in self._well:
            standing = self._reports[node].of(version).standing
            if standing is not Standing.ENFORCED:
                tracked.lag[node] = standing
        self._settle(place, tracked)
        self._dirty.add(place)

    def drop_policy(self, place: Place) -> None:
        """Takes a deletion."""
        if self._policies.pop(place, None) is None:
            return
        self._by_kind[place[0]].discard(place)
        self._unsettled.discard(place)
        self._dirty.discard(place)

    def places(self, kind: str) -> set[Place]:
        """Returns the policies of a kind."""
        return set(self._by_kind.get(kind, ()))

    # -- nodes -------------------------------------------------------------------------------------------------

    def put_node(self, node: str, *, now: float) -> None:
        """Takes a node of the cluster; `now` in Unix seconds, here and below."""
        if node not in self._nodes:
            self._nodes[node] = now
            self._judge(node, now=now)

    def drop_node(self, node: str) -> None:
        """Takes a node that is gone."""
        if self._nodes.pop(node, None) is not None:
            self._leave(node)

    def put_mesh_node(self, mesh_node: MeshNode, *, now: float) -> None:
        """Takes what an agent says."""
        node = mesh_node.metadata.name
        before = self._reports.get(node)
        report = self._reports[node] = NodeReport(node, mesh_node)
        if node not in self._nodes:
            return
        was_well = node in self._well
        self._judge(node, now=now)
        if was_well and node in self._well and before is not None and before.told != report.told:
            self._compare(before, report)

    def drop_mesh_node(self, node: str, *, now: float) -> None:
        """Takes that an agent says nothing any more."""
        if self._reports.pop(node, None) is not None and node in self._nodes:
            self._judge(node, now=now)

    def retain_mesh_nodes(self, nodes: Iterable[str], *, now: float) -> None:
        """Takes all nodes of which anything is said."""
        for node in self._reports.keys() - set(nodes):
            self.drop_mesh_node(node, now=now)

    def tick(self, *, now: float) -> None:
        """Finds the agents that have fallen silent, and nodes that had time enough."""
        for node in self._nodes:
            self._judge(node, now=now)

    def _judge(self, node: str, *, now: float) -> None:
        """Finds out whether a node is well, and what that means for its policies."""
        report = self._reports.get(node)
        fault = (report or NodeReport(node, None)).fault(now)
        if fault is None:
            if node in self._well:
                return
            self._all |= self._faults.pop(node, None) is not None
            self._well.add(node)
            self._survey(self._reports[node])
            self._recount()
            return
        if node not in self._well and node not in self._faults and now - self._nodes[node] < PATIENCE:
            return
        if self._faults.get(node) == fault:
            return
        self._leave(node)
        self._faults[node] = fault
        self._all = True

    def _leave(self, node: str) -> None:
        self._all |= self._faults.pop(node, None) is not None
        self._well.discard(node)
        for place in list(self._unsettled):
            self._note(place, node, Standing.ENFORCED)
        self._recount()

    def _recount(self) -> None:
        """There are more or fewer nodes: that is said of each policy that some node lacks."""
        self._dirty |= self._unsettled
        self._all |= bool(self._faults) or len(self._well) < 2

    def _survey(self, report: NodeReport) -> None:
        """Looks at everything on a node that is well now."""
        for kind, places in self._by_kind.items():
            newest = self._newest.get(kind, -1)
            if not 0 <= newest <= report.watermark(kind):
                self._ask(report, list(places))
        self._ask(report, report.exceptions)

    def _compare(self, before: NodeReport, report: NodeReport) -> None:
        """Looks at what may be another way by what a node says now."""
        if any(report.watermark(kind) < before.watermark(kind) for kind in self._by_kind):
            # The agent, or the API server, began anew.
            for place in list(self._unsettled):
                self._note(place, report.node, Standing.ENFORCED)
            self._survey(report)
            return
        spoken = {place for place, one in before.exceptions.items() if report.exceptions.get(place) != one}
        spoken.update(place for place, one in report.exceptions.items() if before.exceptions.get(place) != one)
        self._dirty.update(place for place in spoken if place in self._policies)  # for what it says of them
        spoken.update(place for place, one in report.recent.items() if before.recent.get(place) != one)
        self._ask(report, {*spoken, *self._unsettled})

    def _ask(self, report: NodeReport, places: Iterable[Place]) -> None:
        for place in places:
            tracked = self._policies.get(place)
            if tracked is not None:
                self._note(place, report.node, report.of(tracked.version).standing)

    def _note(self, place: Place, node: str, standing: Standing) -> None:
        tracked = self._policies[place]
        if tracked.lag.get(node, Standing.ENFORCED) is standing:
            return
        if standing is Standing.ENFORCED:
            del tracked.lag[node]
        else:
            tracked.lag[node] = standing
        self._settle(place, tracked)
        self._dirty.add(place)

    def _settle(self, place: Place, tracked: _Tracked) -> None:
        if tracked.lag:
            self._unsettled.add(place)
        else:
            self._unsettled.discard(place)
