"""The Services of a cluster as a node knows them, for the variables of its containers."""

import asyncio
import contextlib

from isthmus.kube.client import Client
from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import SERVICES
from isthmus.kube.schema import Service
from isthmus.lab.node.environment.services import service_variables


class Services:
    """Follows all Services; run `serve` in a task."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str], Service] = {}
        self._read = asyncio.Event()

    async def serve(self) -> None:
        """Works until cancelled."""
        changes = follow(self._client, SERVICES, Service)
        async with contextlib.aclosing(changes):
            async for change in changes:
                match change:
                    case Snapshot(objects):
                        self._known = {_place(service): service for service in objects}
                    case Put(service):
                        self._known[_place(service)] = service
                    case Gone(service):
                        self._known.pop(_place(service), None)
                self._read.set()

    async def read(self, *, limit: float) -> bool:
        """Waits until the Services were read once, at most `limit` seconds; tells whether they were."""
        try:
            async with asyncio.timeout(limit):
                await self._read.wait()
        except TimeoutError:
            return False
        return True

    def variables(self, *, namespace: str, links: bool) -> dict[str, str]:
        """Returns the variables for a pod."""
        return service_variables(self._known.values(), namespace=namespace, links=links)


def _place(service: Service) -> tuple[str, str]:
    return service.metadata.namespace, service.metadata.name
