"""Which pods of a controller are deleted first when there are too many (upstream's ActivePodsWithRanks)."""

from collections.abc import Mapping, Sequence

from isthmus.lab.controllers.objects.meta import seconds
from isthmus.lab.controllers.objects.pods import Pod

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASES = {"Pending": 0, "": 0, "Unknown": 1, "Running": 2}


def to_delete(pods: Sequence[Pod], count: int, *, crowd: Mapping[str, int]) -> tuple[Pod, ...]:
    """Returns `count` pods, worst first; `crowd` is how many related pods each node has.

    In this order: without a node, pending, not ready, of low deletion cost, on a crowded node, ready for the shortest
    time, restarted most often, youngest.
    """
    if count >= len(pods):
        return tuple(pods)

    def rank(pod: Pod) -> tuple[object, ...]:
        return (
            bool(pod.spec.nodeName),
            _PHASES.get(pod.status.phase, 2),
            pod.ready,
            _cost(pod),
            -crowd.get(pod.spec.nodeName, 0),
            -pod.ready_since,
            -pod.restarts,
            -seconds(pod.metadata.creationTimestamp),
            pod.metadata.name,
        )

    return tuple(sorted(pods, key=rank)[:count])


def _cost(pod: Pod) -> int:
    text = pod.metadata.annotations.get(DELETION_COST, "0")
    try:
        return int(text)
    except ValueError:
        return 0
