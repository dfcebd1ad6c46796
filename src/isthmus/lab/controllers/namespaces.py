"""Namespaces: a default ServiceAccount in each, and the end of those that are being deleted.

Invariant: a namespace is released only when a look at every kind of the API, found by discovery, shows that nothing is
left in it, so that objects of CRDs count too.
"""

import asyncio
from functools import partial
from typing import Any

import msgspec
import structlog

from isthmus.kube.client import Client
from isthmus.kube.errors import AlreadyExists, Conflict, Forbidden, KubeError, NotFound
from isthmus.kube.resources import NAMESPACES, SERVICE_ACCOUNTS, Resource
from isthmus.lab.controllers.objects import Meta, Namespace
from isthmus.lab.controllers.store import Store

EMPTY_PAUSE = 0.2
"""Seconds between two looks into a namespace that is being emptied."""
_PAUSE_CAP = 2.0

_log = structlog.get_logger()


class ServiceAccounts:
    """Creates the `default` ServiceAccount of each namespace."""

    def __init__(self, client: Client, *, namespaces: Store[Namespace], accounts: Store[Meta]) -> None:
        self._client = client
        self._namespaces = namespaces
        self._accounts = accounts

    async def run(self) -> None:
        """Creates what is missing; raises KubeError."""
        await self._namespaces.synced.wait()
        await self._accounts.synced.wait()
        for namespace in self._namespaces:
            name = namespace.metadata.name
            if namespace.metadata.deletionTimestamp or self._accounts.get(name, "default") is not None:
                continue
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
            try:
                await self._client.create(SERVICE_ACCOUNTS, account, type=dict, namespace=name)
            except (AlreadyExists, NotFound, Forbidden):
                continue  # somebody else did, or the namespace is on its way out


class Emptying:
    """Empties namespaces that are being deleted, each in a task of its own, and lets them go."""

    def __init__(self, client: Client, *, namespaces: Store[Namespace]) -> None:
        self._client = client
        self._namespaces = namespaces
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Starts on namespaces whose deletion is new."""
        await self._namespaces.synced.wait()
        for namespace in self._namespaces:
            name, uid = namespace.metadata.name, namespace.metadata.uid
            if not namespace.metadata.deletionTimestamp or uid in self._tasks:
                continue
            task = self._tasks[uid] = asyncio.create_task(self._empty(name))
            task.add_done_callback(partial(self._forget, uid))

    def _forget(self, uid: str, _task: asyncio.Task[None]) -> None:
        self._tasks.pop(uid, None)

    async def _empty(self, name: str) -> None:
        pause = EMPTY_PAUSE
        while True:
            try:
                if not await self._delete_contents(name):
                    await self._finalize(name)
                    return
            except NotFound:
                return
            except Conflict:
                pass
            except KubeError as error:
                _log.warning("namespace not emptied", namespace=name, reason=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _PAUSE_CAP)

    async def _delete_contents(self, name: str) -> int:
        """Deletes everything in a namespace; returns how much was still there."""
        left = 0
        for resource in await namespaced_resources(self._client):
            found = await self._client.list_all(resource, type=Meta, namespace=name)
            left += len(found)
            for item in found:
                if item.metadata.deletionTimestamp:
                    continue
                try:
                    await self._client.delete(
                        resource,
                        item.metadata.name,
                        namespace=name,
                        uid=item.metadata.uid,
                        propagation="Background",
                    )
                except (NotFound, Conflict):
                    continue
        return left

    async def _finalize(self, name: str) -> None:
        current = await self._client.get(NAMESPACES, name, type=dict)
        if not current["metadata"].get("deletionTimestamp"):
            return
        finalizers = [word for word in current.get("spec", {}).get("finalizers", []) if word != "kubernetes"]
        body: dict[str, Any] = {**current, "spec": {**current.get("spec", {}), "finalizers": finalizers}}
        await self._client.replace(NAMESPACES, name, body, type=dict, subresource="finalize")


class _ApiResource(msgspec.Struct):
    name: str
    kind: str
    namespaced: bool = False
    verbs: list[str] = []


class _ApiResources(msgspec.Struct):
    groupVersion: str
    resources: list[_ApiResource] = []


class _Version(msgspec.Struct):
    groupVersion: str
    version: str


class _Group(msgspec.Struct):
    name: str
    preferredVersion: _Version


class _Groups(msgspec.Struct):
    groups: list[_Group] = []


async def namespaced_resources(client: Client) -> list[Resource]:
    """Returns every kind that lives in namespaces and can be listed and deleted; raises KubeError."""
    try:
        paths = [("", "v1", "/api/v1")]
        groups = msgspec.json.decode(await client.raw("GET", "/apis"), type=_Groups)
        for group in groups.groups:
            chosen = group.preferredVersion
            paths.append((group.name, chosen.version, f"/apis/{chosen.groupVersion}"))
        resources = []
        for name, version, path in paths:
            found = msgspec.json.decode(await client.raw("GET", path), type=_ApiResources)
            resources += [
                Resource(name, version, item.name, item.kind)
                for item in found.resources
                if item.namespaced and "/" not in item.name and {"list", "delete"} <= set(item.verbs)
            ]
    except msgspec.DecodeError as error:
        raise KubeError(f"discovery makes no sense: {error}") from error
    return resources
