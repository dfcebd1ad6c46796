"""The loop of slices and Endpoints: a Service is looked at when it, its pods, or what was written for it changes."""

from collections.abc import Callable

from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import ENDPOINT_SLICES, ENDPOINTS
from isthmus.lab.controllers.effects import Effect, delete
from isthmus.lab.controllers.endpoints import slices, subsets
from isthmus.lab.controllers.endpoints.backends import stands_behind
from isthmus.lab.controllers.objects.meta import Key, Object
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.services import EndpointSlice, Service
from isthmus.lab.controllers.performer import taken
from isthmus.lab.controllers.workloads.templates import suffix
from isthmus.lab.controllers.world import World


class EndpointsController:
    """Writes EndpointSlices and Endpoints of Services with a selector, and mirrors Endpoints of those without."""

    def __init__(self, world: World, *, fresh: Callable[[], str] = suffix) -> None:
        self._world = world
        self._fresh = fresh
        self._hands = world.performer("endpoint-slice-controller")
        self._ended: set[Key] = set()
        self.queue = KeyQueue("endpoint-slice-controller", self._round)
        world.services.listen(self._service_changed)
        world.pods.listen(self._pod_changed)
        world.slices.listen(self._slice_changed)
        world.endpoints.listen(self._endpoints_changed)

    async def serve(self) -> None:
        """Works until cancelled, as soon as everything was read."""
        for store in (self._world.services, self._world.pods, self._world.slices, self._world.endpoints):
            await store.synced.wait()
        for item in self._world.endpoints:
            # Left by a Service that went while nobody looked.
            if self._world.services.get(*item.key) is None and subsets.MANAGED_BY in item.metadata.labels:
                self._ended.add(item.key)
        await self.queue.serve()

    def _service_changed(self, before: Service | None, after: Service | None) -> None:
        item = after or before
        if item is None:
            return
        if after is None:
            self._ended.add(item.key)
        else:
            self._ended.discard(item.key)
        self.queue.add(item.key)

    def _endpoints_changed(self, before: Object | None, after: Object | None) -> None:
        item = after or before
        if item is not None:
            self.queue.add(item.key)

    def _slice_changed(self, before: EndpointSlice | None, after: EndpointSlice | None) -> None:
        for item in (before, after):
            name = item.metadata.labels.get(slices.SERVICE_NAME) if item is not None else None
            if item is not None and name:
                self.queue.add((item.metadata.namespace, name))

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        if before is not None and after is not None and _seen(before) == _seen(after):
            return
        for pod in (before, after):
            if pod is None or not pod.status.podIP:
                continue
            for service in self._world.services.by("namespace", pod.metadata.namespace):
                selector = service.spec.selector
                if selector and selector.items() <= pod.metadata.labels.items():
                    self.queue.add(service.key)

    async def _round(self, key: Key) -> float | None:
        namespace, name = key
        world = self._world
        service, endpoints = world.services.get(*key), world.endpoints.get(*key)
        mine = [
            item
            for item in world.slices.by("namespace", namespace)
            if item.metadata.labels.get(slices.SERVICE_NAME) == name
        ]
        effects: list[Effect] = []
        if service is not None and service.spec.selector:
            if service.leaving or service.spec.type == "ExternalName":
                return None
            pods = [pod for pod in world.pods.by("namespace", namespace) if stands_behind(pod, service)]
            effects += slices.plan(service, pods, mine, fresh=self._fresh)
            effects += subsets.plan(service, pods, endpoints)
            effects += _mirrors(mine)
        elif service is not None and endpoints is not None and slices.is_mirrored(endpoints, service):
            effects += slices.mirror(endpoints, service, mine, fresh=self._fresh)
        else:
            effects += _mirrors(mine)
            if service is None and key in self._ended and endpoints is not None and not endpoints.leaving:
                if slices.LEADER not in endpoints.metadata.annotations:
                    effects.append(delete(endpoints, ENDPOINTS))
        failure = await self._hands.perform(effects)
        if failure is not None and not taken(failure):
            raise failure
        if service is None:
            self._ended.discard(key)
        return 0.0 if failure is not None else None


def _mirrors(mine: list[EndpointSlice]) -> list[Effect]:
    """Returns the deletion of slices that mirror what is not to be mirrored any more."""
    return [
        delete(item, ENDPOINT_SLICES) for item in mine if item.metadata.labels.get(slices.MANAGED_BY) == slices.MIRROR
    ]


def _seen(pod: Pod) -> tuple[object, ...]:
    """What of a pod an endpoint shows."""
    return (
        pod.metadata.uid,
        pod.metadata.labels,
        pod.leaving,
        pod.over,
        pod.ready,
        pod.status.podIP,
        pod.status.podIPs,
        pod.spec.nodeName,
    )
