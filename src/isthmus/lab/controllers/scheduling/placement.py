"""Which node a pod goes to: kube-scheduler's filters with its words, and a score that spreads.

Of the nodes that pass all filters the best one has, in this order: the highest preference of the pod itself, the
fewest pods of the same owner, the fewest unwelcoming taints, the least load, the first name. Priority is not looked
at: nothing is ever preempted, and no message says that it was tried. Rejected: weighted sums of scores, whose outcome
nobody can predict, and a lab is for understanding.
"""

from collections import Counter
from decimal import Decimal

from isthmus.lab.controllers.objects.nodes import Taint
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.quantity import amount
from isthmus.lab.controllers.scheduling.affinity import (
    fits_node,
    pod_terms,
    preference,
    preferred_pod_terms,
    term_selects,
)
from isthmus.lab.controllers.scheduling.picture import DEFAULT_PODS, Picture, Place, owner, requests
from isthmus.lab.controllers.scheduling.taints import (
    NO_SCHEDULE,
    PREFER_NO_SCHEDULE,
    UNSCHEDULABLE,
    effective,
    forbids,
    tolerated,
)
from isthmus.lab.controllers.selection import selects


class Unschedulable(Exception):
    """No node fits; the message is kube-scheduler's, with a count for each reason."""


def choose_node(pod: Pod, picture: Picture) -> str:
    """Returns a node's name; raises Unschedulable."""
    if not picture.places:
        raise Unschedulable("no nodes available to schedule pods")
    wanted = requests(pod)
    spread = _Spread(pod, picture)
    reasons: Counter[str] = Counter()
    fitting: list[Place] = []
    for place in picture.places.values():
        found = unfit(pod, place, wanted) or spread.unfit(place) or _crowded_out(pod, place, picture)
        if found:
            reasons.update(found)
        else:
            fitting.append(place)
    if not fitting:
        listed = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
        raise Unschedulable(f"0/{len(picture.places)} nodes are available: {listed}.")
    mine = owner(pod)

    def rank(place: Place) -> tuple[object, ...]:
        return (
            -preference(pod, place.node) - _company(pod, place, picture),
            spread.skew(place),
            place.owners[mine],
            _unwelcome(pod, place),
            _load(pod, place),
            place.name,
        )

    return min(fitting, key=rank).name


def unfit(pod: Pod, place: Place, wanted: dict[str, Decimal]) -> list[str]:
    """Returns why a pod cannot go to a node, as far as the two alone decide; empty if it can."""
    node = place.node
    tolerations = pod.spec.tolerations
    if node.spec.unschedulable and not tolerated(Taint(key=UNSCHEDULABLE, effect=NO_SCHEDULE), tolerations):
        return ["node(s) were unschedulable"]
    taint = forbids(node, tolerations)
    if taint is not None:
        return [f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"]
    if not fits_node(pod, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    reasons = []
    if len(place.pods) + 1 > place.room.get("pods", amount(DEFAULT_PODS)):
        reasons.append("Too many pods")
    for key, value in sorted(wanted.items()):
        if value > 0 and place.requested.get(key, Decimal(0)) + value > place.room.get(key, Decimal(0)):
            reasons.append(f"Insufficient {key}")
    return reasons


def _crowded_out(pod: Pod, place: Place, picture: Picture) -> list[str]:
    """Returns what pod affinity and anti-affinity, its own and that of others, have against a node."""
    for term in pod_terms(pod, "podAffinity"):
        domain = picture.domain(place, term.get("topologyKey", ""))
        if domain is None or not _near(pod, term, domain, picture):
            return ["node(s) didn't match pod affinity rules"]
    for term in pod_terms(pod, "podAntiAffinity"):
        domain = picture.domain(place, term.get("topologyKey", ""))
        if domain is not None and _selected(pod, term, domain, picture):
            return ["node(s) didn't match pod anti-affinity rules"]
    for other in picture.picky.values():
        for term in pod_terms(other, "podAntiAffinity"):
            key = term.get("topologyKey", "")
            theirs = picture.places.get(other.spec.nodeName)
            domain = picture.domain(place, key)
            if theirs is None or domain is None or picture.domain(theirs, key) != domain:
                continue
            if term_selects(term, other, pod, picture.namespaces):
                return ["node(s) didn't satisfy existing pods anti-affinity rules"]
    return []


def _selected(pod: Pod, term: dict[str, object], domain: str, picture: Picture) -> int:
    """Counts the pods that a term means in a topology domain."""
    key = str(term.get("topologyKey", ""))
    return sum(
        term_selects(term, pod, other, picture.namespaces)
        for place in picture.places.values()
        if picture.domain(place, key) == domain
        for other in place.pods.values()
    )


def _near(pod: Pod, term: dict[str, object], domain: str, picture: Picture) -> bool:
    """Whether a required affinity is met in a domain; the first of a group that means itself may go anywhere."""
    if _selected(pod, term, domain, picture):
        return True
    anywhere = any(
        term_selects(term, pod, other, picture.namespaces)
        for place in picture.places.values()
        for other in place.pods.values()
    )
    return not anywhere and term_selects(term, pod, pod, picture.namespaces)


def _company(pod: Pod, place: Place, picture: Picture) -> int:
    """Returns the weight of preferred company on a node, less that of company to be avoided."""
    total = 0
    for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
        for weight, term in preferred_pod_terms(pod, kind):
            domain = picture.domain(place, str(term.get("topologyKey", "")))
            if domain is not None:
                total += sign * weight * _selected(pod, term, domain, picture)
    return total


def _unwelcome(pod: Pod, place: Place) -> int:
    return sum(
        taint.effect == PREFER_NO_SCHEDULE and not tolerated(taint, pod.spec.tolerations)
        for taint in effective(place.node)
    )


def _load(pod: Pod, place: Place) -> tuple[int, int]:
    """Pods of the pod's own namespace count twice, so that the applications of one user keep apart."""
    return len(place.pods) + place.namespaces[pod.metadata.namespace], len(place.pods)


class _Spread:
    """topologySpreadConstraints of one pod: matching pods per domain, counted over the nodes that it may use."""

    def __init__(self, pod: Pod, picture: Picture) -> None:
        self._hard: list[tuple[str, Counter[str], int, int]] = []
        self._soft: list[tuple[str, Counter[str], int, int]] = []
        self._picture = picture
        for constraint in pod.spec.topologySpreadConstraints:
            key = constraint.get("topologyKey", "")
            selector = constraint.get("labelSelector") or {}
            counts: Counter[str] = Counter()
            for place in picture.places.values():
                domain = picture.domain(place, key)
                if domain is None or not fits_node(pod, place.node):
                    continue
                counts[domain] += sum(
                    other.metadata.namespace == pod.metadata.namespace
                    and not other.leaving
                    and selects(selector, other.metadata.labels)
                    for other in place.pods.values()
                )
            itself = int(selects(selector, pod.metadata.labels))
            entry = (key, counts, int(constraint.get("maxSkew", 1)), itself)
            hard = constraint.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"
            (self._hard if hard else self._soft).append(entry)

    def unfit(self, place: Place) -> list[str]:
        for key, counts, limit, itself in self._hard:
            domain = self._picture.domain(place, key)
            if domain is None:
                return ["node(s) didn't match pod topology spread constraints (missing required label)"]
            if counts[domain] + itself - min(counts.values(), default=0) > limit:
                return ["node(s) didn't match pod topology spread constraints"]
        return []

    def skew(self, place: Place) -> int:
        """Returns how many matching pods the node's domains have already, for the constraints that are wishes."""
        return sum(counts[self._picture.domain(place, key) or ""] for key, counts, _, _ in self._soft)
