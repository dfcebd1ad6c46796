"""The list of clusters that every stand-alone agent reads, rewritten when a cluster comes or goes.

Trackers do without it: their clusters say themselves who their peers are. Invariant: readers see the old list or the
new one, never a part. It is JSON, which any YAML reader takes.
"""

import os
from collections.abc import Iterable

import msgspec

from isthmus.lab.plan import ClusterPlan
from isthmus.lab.statedir import StateDir


def write_roster(state: StateDir, plans: Iterable[ClusterPlan]) -> None:
    """Writes name, ID and credentials of every cluster that is joined with others; raises OSError."""
    entries = [
        {
            "name": plan.name,
            "id": plan.id,
            "kubeconfig": str(state.cluster(plan.name).kubeconfig("tracker")),
            "context": plan.context,
        }
        for plan in sorted(plans, key=lambda plan: plan.id)
        if plan.connect
    ]
    draft = state.roster.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(entries)) + b"\n")
    os.replace(draft, state.roster)
