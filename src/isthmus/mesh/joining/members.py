"""A cluster as the commands of the mesh see it: a context of a kubeconfig with its API server.

Invariant: whatever goes wrong with it is told with the context's name, because a command speaks to several.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from isthmus.kube.client import Client, Patch
from isthmus.kube.errors import AlreadyExists, ApiError, ConfigError, KubeError, NotFound
from isthmus.kube.kubeconfig import load
from isthmus.kube.resources import CONFIG_MAPS, SECRETS, SERVICES
from isthmus.kube.schema import Bare, ConfigMap, Secret, Service
from isthmus.mesh.joining.objects import TRACKER, Manifest, remote_account, remote_token, resource_of
from isthmus.mesh.membership import CONFIG, NAMESPACE, PEERS, Configuration, MembershipError, read_configuration

MANAGER = "isthmus-cli"

Tell = Callable[[str], None]
"""Tells people of a step, one line at a time."""


class JoiningError(Exception):
    """What was asked for cannot be done; the message says where, why, and what to do."""


class Member:
    """A cluster: `context` is what people call it, `client` must be open while it is used."""

    def __init__(self, context: str, client: Client) -> None:
        self.context = context
        self.client = client

    async def configuration(self) -> Configuration | None:
        """Returns what the cluster is in the mesh, None if nothing says so. Raises JoiningError, KubeError."""
        try:
            found = await self.client.get(CONFIG_MAPS, CONFIG, type=ConfigMap, namespace=NAMESPACE)
            return read_configuration(found.data)
        except NotFound:
            return None
        except MembershipError as error:
            raise JoiningError(f"context {self.context}: {error}") from None

    async def service(self) -> Service | None:
        """Returns the tracker's Service, None if the mesh is not enabled here. Raises KubeError."""
        try:
            return await self.client.get(SERVICES, TRACKER, type=Service, namespace=NAMESPACE)
        except NotFound:
            return None

    async def enabled(self) -> tuple[Configuration, Service]:
        """Returns both. Raises JoiningError if the mesh is not enabled, KubeError."""
        configuration, service = await asyncio.gather(self.configuration(), self.service())
        if configuration is None or service is None:
            raise JoiningError(
                f"cluster mesh is not enabled in context {self.context}; "
                f"run 'isthmus clustermesh enable --context {self.context}'"
            )
        return configuration, service

    async def peers(self) -> dict[str, bytes]:
        """Returns the entries of the peers as they are. Raises KubeError."""
        try:
            return (await self.client.get(SECRETS, PEERS, type=Secret, namespace=NAMESPACE)).data
        except NotFound:
            return {}

    async def write_peer(self, name: str, content: bytes | None) -> None:
        """Writes an entry, or takes it away (None); entries of others are not touched. Raises KubeError."""
        change = {"data": {name: content}}
        try:
            await self.client.patch(SECRETS, PEERS, change, type=Bare, kind=Patch.MERGE, namespace=NAMESPACE)
            return
        except NotFound:
            if content is None:
                return
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": PEERS, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "isthmus"}},
            **change,
        }
        try:
            await self.client.create(SECRETS, secret, type=Bare, namespace=NAMESPACE)
        except AlreadyExists:
            await self.client.patch(SECRETS, PEERS, change, type=Bare, kind=Patch.MERGE, namespace=NAMESPACE)

    async def apply(self, manifests: Iterable[Manifest]) -> None:
        """Applies objects, all at the same time, on the server's side. Raises KubeError."""
        await asyncio.gather(*(self._apply(manifest) for manifest in manifests))

    async def _apply(self, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        try:
            await self.client.patch(
                resource_of(manifest),
                metadata["name"],
                manifest,
                type=Bare,
                kind=Patch.APPLY,
                namespace=metadata.get("namespace"),
                field_manager=MANAGER,
                force=True,
            )
        except ApiError as error:
            what = f"{manifest['kind']} {metadata['name']}"
            raise JoiningError(f"context {self.context}: cannot apply {what}: {error}") from error

    async def revoke(self, other: str) -> None:
        """Takes from another cluster's tracker what it may read here. Raises KubeError."""
        account, binding = remote_account(other)
        await self.remove([remote_token(other), binding, account])

    async def remove(self, manifests: Iterable[Manifest]) -> None:
        """Removes objects one after the other; what is not there is no error. Raises KubeError."""
        for manifest in manifests:
            metadata = manifest["metadata"]
            try:
                await self.client.delete(
                    resource_of(manifest),
                    metadata["name"],
                    namespace=metadata.get("namespace"),
                    propagation="Background",
                )
            except NotFound:
                continue

    def failed(self, error: KubeError) -> JoiningError:
        """Returns the error with the place where it happened."""
        return JoiningError(f"context {self.context}: {error}")


@asynccontextmanager
async def open_member(kubeconfig: Path | None, context: str | None) -> AsyncGenerator[Member, None]:
    """Opens the cluster of a context, of the current one if it is None.

    Raises JoiningError, also for a KubeError that ends what is done with it.
    """
    try:
        access = await asyncio.to_thread(load, kubeconfig, context=context)
    except ConfigError as error:
        raise JoiningError(str(error)) from None
    async with Client(access) as client:
        member = Member(access.context or access.origin, client)
        try:
            yield member
        except KubeError as error:
            raise member.failed(error) from error
