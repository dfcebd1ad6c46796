"""Performs effects over HTTP and shows their results in the stores at once.

Invariants: creates and deletes go out in growing batches (1, 2, 4, ... up to LIMIT), so a quota or a full disk is met
by one request and not by a hundred (as upstream's slow start); after the first failure the rest is left for the next
round. A create whose answer was lost is looked up by its name before anything else is created: names are chosen here,
so that this can be known.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from isthmus.kube.client import Client
from isthmus.kube.errors import (
    DECODE_ERRORS,
    AlreadyExists,
    ApiError,
    Conflict,
    ConnectionFailed,
    KubeError,
    NotFound,
    too_late,
)
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import Resource
from isthmus.kube.schema import ObjectReference
from isthmus.lab.controllers.effects import Change, Create, Delete, Effect, Tell
from isthmus.lab.controllers.objects.meta import Object, stamp
from isthmus.lab.controllers.store import Store

LIMIT = 16
"""Requests of one plan in flight."""


class Unsettled(KubeError):
    """The plan was made before it was known what an earlier write did."""


class Performer:
    """The hands of one controller; `stores` are those that must show its writes."""

    def __init__(
        self,
        client: Client,
        events: EventRecorder,
        stores: Mapping[Resource, Store[Any]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._events = events
        self._stores = stores
        self._clock = clock
        self._uncertain: set[tuple[Resource, str, str]] = set()

    async def perform(self, effects: Sequence[Effect]) -> KubeError | None:
        """Performs a plan in its order; returns why a create or delete failed. Raises KubeError for the others.

        Raises Conflict for a Change that came too late, Unsettled if a lost create turned out to have happened.
        """
        await self._settle()
        for kind, group in groupby(effects, key=type):
            batch = list(group)
            if kind in (Create, Delete):
                failure = await self._in_batches(batch)
                if failure is not None:
                    return failure
                continue
            for effect in batch:
                match effect:
                    case Change():
                        await self.change(effect)
                    case Tell(about, reason, message, severity):
                        self._events.emit(about, reason=reason, message=message, type=severity)
        return None

    async def _in_batches(self, effects: Sequence[Effect]) -> KubeError | None:
        done, size = 0, 1
        while done < len(effects):
            batch = effects[done : done + size]
            answers = await asyncio.gather(*(self._one(effect) for effect in batch), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    if isinstance(answer, KubeError):
                        return answer
                    raise answer
            done += len(batch)
            size = min(size * 2, LIMIT)
        return None

    async def _one(self, effect: Effect) -> None:
        match effect:
            case Create():
                await self._create(effect)
            case Delete():
                await self._delete(effect)

    async def _create(self, effect: Create) -> None:
        meta = effect.body["metadata"]
        namespace, name = meta.get("namespace", ""), meta["name"]
        resource = effect.resource
        try:
            stored = await self._client.create(resource, effect.body, type=msgspec.Raw, namespace=namespace or None)
        except ConnectionFailed:
            self._uncertain.add((resource, namespace, name))
            raise
        except AlreadyExists:
            raise  # not worth an Event: whoever asked knows what to do about a name
        except KubeError as error:
            if too_late(error):
                return
            self._failed(effect.owner, "FailedCreate", f"Error creating: {error}")
            raise
        self._show(resource, stored)
        reason, message = effect.words or ("SuccessfulCreate", f"Created {resource.kind.lower()}: {name}")
        if effect.owner is not None and reason:
            self._events.emit(effect.owner, reason=reason, message=message, type="Normal")

    async def _delete(self, effect: Delete) -> None:
        try:
            await self._client.delete(
                effect.resource,
                effect.name,
                namespace=effect.namespace or None,
                uid=effect.uid,
                grace_period=effect.grace,
                propagation=effect.propagation,
            )
        except (NotFound, Conflict):
            # Gone, or another object of that name: this one is no more, and the watch will say so.
            self._note_deleted(effect)
            return
        except KubeError as error:
            self._failed(effect.owner, "FailedDelete", f"Error deleting: {error}")
            raise
        self._note_deleted(effect)
        if effect.owner is not None:
            said = ("SuccessfulDelete", f"Deleted {effect.resource.kind.lower()}: {effect.name}")
            reason, message = effect.words or said
            self._events.emit(effect.owner, reason=reason, message=message, type="Normal")

    async def change(self, effect: Change) -> None:
        """Performs one change. Raises Conflict if it came too late."""
        patch = effect.patch
        if effect.version or effect.uid:
            bound = {"resourceVersion": effect.version, "uid": effect.uid}
            meta = {**patch.get("metadata", {}), **{key: value for key, value in bound.items() if value}}
            patch = {**patch, "metadata": meta}
        stored = await self._client.patch(
            effect.resource,
            effect.name,
            patch,
            type=msgspec.Raw,
            kind=effect.kind,
            namespace=effect.namespace or None,
            subresource=effect.subresource,
        )
        self._show(effect.resource, stored)

    def _failed(self, owner: ObjectReference | None, reason: str, message: str) -> None:
        if owner is not None:
            self._events.emit(owner, reason=reason, message=message, type="Warning")

    def _show(self, resource: Resource, raw: msgspec.Raw) -> None:
        """Puts what the server stored into the store of its kind."""
        store = self._stores.get(resource)
        if store is None:
            return
        try:
            item: Object = msgspec.json.decode(raw, type=store.type)
        except DECODE_ERRORS:
            return  # nulls or worse: the watch brings it, decoded with more patience
        store.wrote(item)

    def _note_deleted(self, effect: Delete) -> None:
        store = self._stores.get(effect.resource)
        if store is not None:
            store.deleted(effect.namespace, effect.name, uid=effect.uid, at=stamp(self._clock()))

    async def _settle(self) -> None:
        """Finds out about creates whose answer was lost. Raises Unsettled if one of them happened."""
        happened = ""
        for lost in list(self._uncertain):
            resource, namespace, name = lost
            try:
                stored = await self._client.get(resource, name, type=msgspec.Raw, namespace=namespace or None)
            except NotFound:
                self._uncertain.discard(lost)
                continue
            self._uncertain.discard(lost)
            self._show(resource, stored)
            happened = name
        if happened:
            raise Unsettled(f"{happened} was created although the answer was lost")


def refused(error: KubeError | None) -> bool:
    """Whether an error is the server's refusal, which a status should tell, and not a lost connection."""
    return isinstance(error, ApiError) and not isinstance(error, AlreadyExists)


def taken(failure: KubeError | None) -> bool:
    """Whether a create failed because the name is taken."""
    return isinstance(failure, AlreadyExists)
