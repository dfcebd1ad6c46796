"""DaemonSet: one pod on every node that will have it.

Each pod is pinned to its node by node affinity and placed by the scheduler, as upstream, so that a full node is told
as such. maxSurge is taken as that many nodes that may be without: two pods of one DaemonSet on a node would fight for
its ports.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from isthmus.kube.resources import DAEMON_SETS, PODS
from isthmus.lab.controllers.effects import Create, Effect, Tell, delete
from isthmus.lab.controllers.objects.meta import reference, seconds
from isthmus.lab.controllers.objects.nodes import Node
from isthmus.lab.controllers.objects.pods import Pod, Toleration, soonest_available
from isthmus.lab.controllers.objects.workloads import DaemonSet
from isthmus.lab.controllers.scheduling.affinity import REQUIRED, allows
from isthmus.lab.controllers.scheduling.taints import NO_EXECUTE, NO_SCHEDULE, effective, tolerated
from isthmus.lab.controllers.workloads.rollout import resolved
from isthmus.lab.controllers.workloads.templates import REVISION_HASH, Suffix, new_pod, prefixed

Json = dict[str, Any]
GENERATION = "deprecated.daemonset.template.generation"
_PREFIX = "node.kubernetes.io"
_TOLERATED = (
    ("not-ready", NO_EXECUTE),
    ("unreachable", NO_EXECUTE),
    ("disk-pressure", NO_SCHEDULE),
    ("memory-pressure", NO_SCHEDULE),
    ("pid-pressure", NO_SCHEDULE),
    ("unschedulable", NO_SCHEDULE),
)


class Wanted(msgspec.Struct, frozen=True):
    """Whether a node should get a pod, and whether it may keep one."""

    run: bool
    keep: bool


class Picture(msgspec.Struct, frozen=True):
    """A DaemonSet's nodes, its pods on each, and the hash of its template."""

    item: DaemonSet
    wanted: Mapping[str, Wanted]
    pods: Mapping[str, Sequence[Pod]]
    hash: str


def look(item: DaemonSet, nodes: Sequence[Node], pods: Sequence[Pod], *, hash_: str) -> Picture:
    """Returns what a round goes by."""
    by_node: dict[str, list[Pod]] = {}
    for pod in pods:
        by_node.setdefault(target(pod), []).append(pod)
    wanted = {node.metadata.name: _wants(item, node) for node in nodes if not node.leaving}
    return Picture(item, wanted, by_node, hash_)


def tolerations(spec: Json) -> list[Json]:
    """Returns the tolerations of a daemon's pod: its own and those that every daemon has."""
    words = [*_TOLERATED, *([("network-unavailable", NO_SCHEDULE)] if spec.get("hostNetwork") else [])]
    added = [{"key": f"{_PREFIX}/{key}", "operator": "Exists", "effect": effect} for key, effect in words]
    own = list(spec.get("tolerations") or ())
    return [*own, *(one for one in added if one not in own)]


def target(pod: Pod) -> str:
    """Returns the node that a daemon's pod is on or pinned to."""
    if pod.spec.nodeName:
        return pod.spec.nodeName
    required = (pod.spec.affinity.get("nodeAffinity") or {}).get(REQUIRED) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and len(field.get("values") or ()) == 1:
                return str(field["values"][0])
    return ""


def _wants(item: DaemonSet, node: Node) -> Wanted:
    spec = item.spec.template.get("spec") or {}
    if spec.get("nodeName") not in (None, "", node.metadata.name):
        return Wanted(run=False, keep=False)
    if not allows(node, selector=spec.get("nodeSelector") or {}, affinity=spec.get("affinity") or {}):
        return Wanted(run=False, keep=False)
    mine = msgspec.convert(tolerations(spec), tuple[Toleration, ...], strict=False)
    bad = [
        taint for taint in effective(node) if taint.effect in (NO_SCHEDULE, NO_EXECUTE) and not tolerated(taint, mine)
    ]
    return Wanted(run=not bad, keep=not any(taint.effect == NO_EXECUTE for taint in bad))


def plan(picture: Picture, *, fresh: Suffix, now: float) -> list[Effect]:
    """Returns the pods to make and to delete: first those that are missing or too many, else the next of an update."""
    item = picture.item
    if item.leaving:
        return []
    effects = _manage(picture, fresh)
    if not effects and item.spec.updateStrategy.type == "RollingUpdate":
        effects = _update(picture, now)
    return effects


def _manage(picture: Picture, fresh: Suffix) -> list[Effect]:
    item = picture.item
    about = reference(item, DAEMON_SETS)
    told: list[Effect] = []
    made: list[Effect] = []
    gone: list[Effect] = []
    for name, wanted in picture.wanted.items():
        pods = picture.pods.get(name, ())
        if wanted.run and not pods:
            made.append(Create(PODS, _pod(item, name, picture.hash, fresh), owner=about))
        elif not wanted.keep:
            gone += [delete(pod, PODS, owner=about) for pod in pods if not pod.leaving]
        else:
            running = []
            for pod in pods:
                if pod.leaving:
                    continue
                if pod.over:
                    word = pod.status.phase.lower()
                    where = f"{pod.metadata.namespace}/{pod.metadata.name} on node {name}"
                    message = f"Found {word} daemon pod {where}, will try to kill it"
                    if pod.status.phase == "Failed":
                        told.append(Tell(about, "FailedDaemonPod", message, "Warning"))
                    gone.append(delete(pod, PODS, owner=about))
                else:
                    running.append(pod)
            running.sort(key=lambda pod: (not pod.spec.nodeName, _age(pod)))
            gone += [delete(pod, PODS, owner=about) for pod in running[1:]]
    for name, pods in picture.pods.items():
        if name not in picture.wanted:
            # Bound ones are the pod collector's, which asks the server whether the node is really gone.
            gone += [delete(pod, PODS, owner=about) for pod in pods if not pod.spec.nodeName and not pod.leaving]
    return [*told, *gone, *made]


def _update(picture: Picture, now: float) -> list[Effect]:
    item = picture.item
    about = reference(item, DAEMON_SETS)
    broken: list[Pod] = []
    whole: list[Pod] = []
    unavailable = 0
    running = [name for name, wanted in picture.wanted.items() if wanted.run]
    for name in running:
        pods = [pod for pod in picture.pods.get(name, ()) if not pod.leaving]
        if not pods:
            unavailable += 1
            continue
        pod = min(pods, key=_age)
        available = pod.available(item.spec.minReadySeconds, now=now)
        unavailable += not available
        if pod.metadata.labels.get(REVISION_HASH) != picture.hash:
            (whole if available else broken).append(pod)
    spare = max(allowed_unavailable(item, len(running)) - unavailable, 0)
    return [delete(pod, PODS, owner=about) for pod in (*broken, *whole[:spare])]


def allowed_unavailable(item: DaemonSet, wanted: int) -> int:
    """Returns how many nodes may be without an available pod during an update."""
    rolling = item.spec.updateStrategy.rollingUpdate
    down = resolved(1 if rolling.maxUnavailable is None else rolling.maxUnavailable, wanted, up=True)
    surge = resolved(rolling.maxSurge or 0, wanted, up=True)
    return max(down, surge, 1)


def status(picture: Picture, *, now: float) -> dict[str, Any] | None:
    """Returns the new status; None if it would say the same."""
    item = picture.item
    counts = dict.fromkeys(
        (
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberMisscheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ),
        0,
    )
    for name, wanted in picture.wanted.items():
        pods = [pod for pod in picture.pods.get(name, ()) if pod.spec.nodeName or not pod.leaving]
        if not wanted.run:
            counts["numberMisscheduled"] += bool(pods)
            continue
        counts["desiredNumberScheduled"] += 1
        if pods:
            pod = min(pods, key=_age)
            counts["currentNumberScheduled"] += 1
            counts["numberReady"] += pod.ready
            counts["numberAvailable"] += pod.available(item.spec.minReadySeconds, now=now)
            counts["updatedNumberScheduled"] += pod.metadata.labels.get(REVISION_HASH) == picture.hash
    counts["numberUnavailable"] = counts["desiredNumberScheduled"] - counts["numberAvailable"]
    counts["observedGeneration"] = item.metadata.generation
    if all(getattr(item.status, key) == value for key, value in counts.items()):
        return None
    optional = ("updatedNumberScheduled", "numberAvailable", "numberUnavailable", "observedGeneration")
    return {key: None if not value and key in optional else value for key, value in counts.items()}


def recheck(picture: Picture, *, now: float) -> float | None:
    """Returns in how many seconds a pod becomes available by waiting."""
    pods = [pod for held in picture.pods.values() for pod in held if pod.active]
    limit = picture.item.spec.minReadySeconds
    return soonest_available(pods, limit, now=now) if limit else None


def _pod(item: DaemonSet, node: str, hash_: str, fresh: Suffix) -> Json:
    template = copy.deepcopy(item.spec.template)
    spec = template.setdefault("spec", {})
    spec["tolerations"] = tolerations(spec)
    affinity = spec.setdefault("affinity", {}) or {}
    spec["affinity"] = affinity
    near = affinity.get("nodeAffinity") or {}
    pin = {"key": "metadata.name", "operator": "In", "values": [node]}
    # The scheduler looks at nothing else of the node: which nodes fit was decided here.
    near[REQUIRED] = {"nodeSelectorTerms": [{"matchFields": [pin]}]}
    affinity["nodeAffinity"] = near
    labels = {REVISION_HASH: hash_}
    if generation := item.metadata.annotations.get(GENERATION):
        labels["pod-template-generation"] = generation
    prefix, name = prefixed(item.metadata.name, fresh)
    return new_pod(item, DAEMON_SETS, template, name=name, generate_name=prefix, labels=labels)


def _age(pod: Pod) -> tuple[float, str]:
    return seconds(pod.metadata.creationTimestamp), pod.metadata.name
