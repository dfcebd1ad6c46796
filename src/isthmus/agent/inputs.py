"""Everything that the agent watches in its own cluster, and where it goes.

One watch for each kind, whoever needs it: Services' part of the agent hears of namespaces and EndpointSlices from here
or the other way round. What policies may refer to is watched from the first policy on that does, by watches of its own:
others have long told what they had to tell, and most clusters never get there. Invariant: a change is in the view, and
its reports are told, before a run is asked for. Rejected: watches that come and go with what policies use: a policy
that is replaced would have them start anew each time.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from isthmus.agent.following import Definitions, KindWatch
from isthmus.agent.policies.references import API_SERVER
from isthmus.agent.policies.reports import Report
from isthmus.agent.policies.telling import Telling
from isthmus.agent.services.serving import Serving
from isthmus.agent.view import View
from isthmus.kube.client import Client
from isthmus.kube.reflector import Change, follow
from isthmus.kube.resources import (
    CILIUM_CIDR_GROUPS,
    ENDPOINT_SLICES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    POLICY_KINDS,
    SERVICES,
    Resource,
)
from isthmus.kube.schema import Bare, EndpointSlice, Node, Pod, Service
from isthmus.mesh.source.slices import SERVICE_NAME
from isthmus.policy.context import Use

OLD_CIDR_GROUPS = Resource("cilium.io", "v2alpha1", "ciliumcidrgroups", "CiliumCIDRGroup", namespaced=False)
"""As CIDR groups are served before Cilium 1.18."""

MOST_ARRIVALS = 4096
"""Changes of policies whose way to the kernel is timed; of more at once, the first ones."""

Object = dict[str, object]
T = TypeVar("T")


class Inputs:
    """The watches of one agent. `on_change` asks for a run, `on_node` hears of the Node object too."""

    def __init__(
        self,
        client: Client,
        view: View,
        *,
        node: str,
        services: Serving | None,
        telling: Telling,
        on_change: Callable[[], None],
        on_node: Callable[[Change[Node]], None],
    ) -> None:
        self._client = client
        self._view = view
        self._node = node
        self._services = services
        self._telling = telling
        self._on_change = on_change
        self._node_told = on_node
        self._definitions = Definitions()
        self._used = {use: asyncio.Event() for use in Use}
        self.arrivals: list[float] = []
        """When changes of policies came, on the loop's clock; whoever gives them to the kernel takes them out then."""

    async def run(self) -> None:
        """Watches until cancelled."""
        client = self._client
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._definitions.follow(client))
            for resource in POLICY_KINDS:
                sink = partial(self.on_policies, resource)
                if resource is NETWORK_POLICIES:
                    tasks.create_task(self._take(follow(client, resource, dict), sink))
                else:
                    tasks.create_task(KindWatch(client, self._definitions, resource, sink=sink).run())
            pods = follow(client, PODS, Pod, field_selector=f"spec.nodeName={self._node}")
            tasks.create_task(self._take(pods, self._and_ask(self._view.pods)))
            nodes = follow(client, NODES, Node, field_selector=f"metadata.name={self._node}")
            tasks.create_task(self._take(nodes, self._and_ask(self.on_node)))
            namespaces = follow(client, NAMESPACES, Bare, metadata_only=True)
            tasks.create_task(self._take(namespaces, self._and_ask(self._namespaces_changed)))
            tasks.create_task(self._follow_groups())
            tasks.create_task(self._follow_services())
            if self._services is not None:
                tasks.create_task(self._services.run(client))
            else:
                namespace, name = API_SERVER
                slices = follow(
                    client, ENDPOINT_SLICES, EndpointSlice, namespace=namespace, label_selector=f"{SERVICE_NAME}={name}"
                )
                tasks.create_task(self._take(slices, self._and_ask(self._view.api_servers)))

    def on_policies(self, resource: Resource, change: Change[Object]) -> None:
        """Takes in a change of policies of one kind."""
        if len(self.arrivals) < MOST_ARRIVALS:
            self.arrivals.append(asyncio.get_running_loop().time())
        self._tell(self._view.policies(change, resource))

    def _tell(self, reports: list[Report]) -> None:
        for report in reports:
            self._telling.report(report)
        for use in self._view.book.uses:
            self._used[use].set()
        self._on_change()

    def on_node(self, change: Change[Node]) -> None:
        """Takes in a change of this node's own object."""
        self._view.node(change)
        if self._services is not None:
            self._services.set_node(self._view.node_addresses)
        self._node_told(change)

    def _namespaces_changed(self, change: Change[Bare]) -> None:
        self._view.namespaces(change)
        if self._services is not None:
            self._services.on_namespaces(change)

    async def _follow_groups(self) -> None:
        await self._used[Use.CIDR_GROUPS].wait()
        watch = KindWatch(
            self._client,
            self._definitions,
            CILIUM_CIDR_GROUPS,
            OLD_CIDR_GROUPS,
            sink=lambda change: self._tell(self._view.groups(change)),
        )
        await watch.run()

    async def _follow_services(self) -> None:
        await self._used[Use.SERVICES].wait()
        async with asyncio.TaskGroup() as tasks:
            services = follow(self._client, SERVICES, Service)
            tasks.create_task(self._take(services, lambda change: self._tell(self._view.services(change))))
            slices = follow(self._client, ENDPOINT_SLICES, EndpointSlice)
            tasks.create_task(self._take(slices, lambda change: self._tell(self._view.slices(change))))

    def _and_ask(self, sink: Callable[[Change[T]], None]) -> Callable[[Change[T]], None]:
        def both(change: Change[T]) -> None:
            sink(change)
            self._on_change()

        return both

    @staticmethod
    async def _take(changes: AsyncGenerator[Change[T], None], sink: Callable[[Change[T]], None]) -> None:
        async with aclosing(changes):
            async for change in changes:
                sink(change)
