"""Requests that change objects: from HTTP to a transaction, and back to an answer."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.access.auth import Authenticator, User
from isthmus.lab.apiserver.access.tokens import issue_token
from isthmus.lab.apiserver.changes import deletion, eviction, patching
from isthmus.lab.apiserver.changes.calls import Call, write_options
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.http import subresources
from isthmus.lab.apiserver.http.reading import selection_of
from isthmus.lab.apiserver.http.representation import Renderer
from isthmus.lab.apiserver.http.reviews import review
from isthmus.lab.apiserver.http.routing import Target
from isthmus.lab.apiserver.inputs import bodies, decoding, protobuf
from isthmus.lab.apiserver.inputs.selectors import Selection
from isthmus.lab.apiserver.storage.state import State, Transaction, decode
from isthmus.lab.apiserver.storage.watchcache import Stored
from isthmus.lab.apiserver.strategies.admission import DEFAULT_ACCOUNT

JSON = "application/json"
YAML = "application/yaml"
ACCOUNT_TIME = 1.5  # seconds; as long as the real server tries
Result = TypeVar("Result")


def media_type(request: web.Request) -> str:
    """Returns the bare type of the body; JSON if there is none."""
    return request.headers.get("Content-Type", JSON).partition(";")[0].strip().lower() or JSON


async def read(request: web.Request, *accepted: str) -> tuple[bytes, str]:
    """Returns body and type; raises 413 for one that is too big, 415 for a type that is not `accepted`."""
    offered = media_type(request)
    if offered not in accepted:
        raise errors.unsupported_media_type(offered, accepted)
    try:
        return await request.read(), offered
    except web.HTTPRequestEntityTooLarge as failure:
        text = f"Request entity too large: limit is {decoding.MAX_BODY}"
        raise errors.ApiError(413, "RequestEntityTooLarge", text) from failure


def parse(body: bytes, offered: str) -> Json:
    """Returns the object of a body of type `offered`; raises a 400 ApiError."""
    if offered == protobuf.MEDIA_TYPE:
        return protobuf.decode(body)
    return bodies.parse_object(body, yaml=offered == YAML)


def quoted(text: str) -> str:
    """Returns a text as it may stand between the quotes of a Warning header."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")


def answer(body: bytes, *, code: int = 200, call: Call | None = None) -> web.Response:
    """Returns a JSON response with the call's warnings."""
    response = web.Response(body=body, status=code, content_type=JSON)
    for warning in call.warnings if call is not None else ():
        response.headers.add("Warning", f'299 - "{quoted(warning)}"')
    return response


class Writing:
    """Answers create, update, patch and delete."""

    def __init__(self, *, state: State, life: Lifecycle, authenticator: Authenticator) -> None:
        self._state = state
        self._life = life
        self._authenticator = authenticator

    def _call(self, request: web.Request, target: Target, user: User) -> Call:
        agent = request.headers.get("User-Agent", "")
        options: Any = write_options(request.query, user_agent=agent)
        return Call(
            resource=target.resource,
            namespace=target.namespace,
            name=target.name,
            subresource=target.subresource,
            user=user.name,
            **options,
        )

    def scale(self, target: Target, stored: Stored) -> Json:
        """Returns the Scale of a workload."""
        return subresources.read_scale(Call(resource=target.resource), stored)

    async def _write(self, call: Call, action: Callable[[Transaction], Result]) -> Result:
        return await self._state.write(action, dry_run=call.dry_run)

    async def create(self, request: web.Request, target: Target, *, user: User, renderer: Renderer) -> web.Response:
        """POST."""
        body, offered = await read(request, JSON, YAML, protobuf.MEDIA_TYPE)
        call = self._call(request, target, user)
        value = parse(body, offered)
        life = self._life
        if target.subresource or target.resource.plural == "bindings":
            return await self._create_below(call, value)
        if not target.resource.stored:
            answered = review(life, call, value, user=user, authenticator=self._authenticator)
            return answer(msgspec.json.encode(answered), code=201, call=call)
        if target.resource.namespaced and not target.namespace:
            raise errors.method_not_allowed()
        value = life.read_body(call, value, repeated=self._repeated(call, body))
        if call.resource.qualified == "pods" and life.settings.service_accounts:
            await self._default_account(call, value)
        stored = await self._write(call, lambda transaction: life.create(transaction, call, value))
        return answer(renderer.one(stored), code=201, call=call)

    @staticmethod
    def _repeated(call: Call, body: bytes) -> list[str]:
        return [] if call.validation == "Ignore" else bodies.repeated(body)

    async def _default_account(self, call: Call, value: Json) -> None:
        """Waits a little for the `default` service account of a namespace that was made just now."""
        spec = value.get("spec", {})
        if (spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT_ACCOUNT) != DEFAULT_ACCOUNT:
            return
        registry = self._life.registry
        cache = self._state.cache(registry.get("serviceaccounts"))
        place = (call.namespace, DEFAULT_ACCOUNT)
        if place in cache.objects or ("", call.namespace) not in self._state.cache(registry.get("namespaces")).objects:
            return
        watcher = cache.watch(namespace=call.namespace, selection=Selection(), since=None)
        try:
            async with asyncio.timeout(ACCOUNT_TIME):
                while place not in cache.objects and not watcher.lost and not watcher.ended:
                    await watcher.wait()
                    watcher.pending.clear()
        except TimeoutError:
            return  # the admission of the pod says that it is not there
        finally:
            watcher.close()

    async def _create_below(self, call: Call, value: Json) -> web.Response:
        life = self._life
        if call.subresource == "token":
            return answer(await issue_token(self._state, self._authenticator, call, value), code=201)
        if call.resource.plural == "bindings":
            pods = life.registry.get("pods")
            name = str(value.get("metadata", {}).get("name", "")) if isinstance(value.get("metadata"), dict) else ""
            call = msgspec.structs.replace(call, resource=pods, name=name)
        elif call.subresource == "eviction":
            asked = eviction.read(call, value)
            options = deletion.read_options(asked.get("deleteOptions", {}), {})
            call = msgspec.structs.replace(call, dry_run=call.dry_run or options.dry_run)
            await self._write(call, lambda transaction: eviction.evict(life, transaction, call, options))
            return answer(msgspec.json.encode(success(code=201)), code=201)
        elif call.subresource != "binding":
            raise errors.method_not_allowed()
        call = msgspec.structs.replace(call, subresource="binding")
        await self._write(call, lambda transaction: subresources.bind(life, transaction, call, value))
        return answer(msgspec.json.encode(success(code=201)), code=201)

    async def update(self, request: web.Request, target: Target, *, user: User, renderer: Renderer) -> web.Response:
        """PUT."""
        body, offered = await read(request, JSON, YAML, protobuf.MEDIA_TYPE)
        call = self._call(request, target, user)
        sent = parse(body, offered)
        life = self._life
        if call.subresource == "scale":
            scale = await self._write(call, lambda transaction: subresources.write_scale(life, transaction, call, sent))
            return answer(msgspec.json.encode(scale))
        if call.subresource == "finalize":
            stored = await self._write(call, lambda transaction: subresources.finalize(life, transaction, call, sent))
            return answer(renderer.one(stored))
        value = life.read_body(call, sent, repeated=self._repeated(call, body))
        if not value["metadata"].get("name"):
            bad = errors.required("metadata.name", "name must be provided")
            raise errors.unprocessable(call.resource.qualified_kind, "", [bad])
        stored = await self._write(
            call, lambda transaction: life.update(transaction, call, value, old=life.load(transaction, call))
        )
        return answer(renderer.one(stored), call=call)

    async def patch(self, request: web.Request, target: Target, *, user: User, renderer: Renderer) -> web.Response:
        """PATCH."""
        resource = target.resource
        strategic = resource.strategic or target.subresource == "scale"
        body, offered = await read(request, *(patching.TYPES if strategic else patching.CUSTOM_TYPES))
        call = self._call(request, target, user)
        life = self._life
        if offered == patching.APPLY_PATCH:
            if not request.query.get("fieldManager"):
                bad = errors.required("fieldManager", "is required for apply patch")
                raise errors.unprocessable("PatchOptions.meta.k8s.io", "", [bad])
            value: Any = bodies.parse_object(body, yaml=True)
        else:
            if "force" in request.query:
                bad = errors.forbidden("force", "may not be specified for non-apply patch")
                raise errors.unprocessable("PatchOptions.meta.k8s.io", "", [bad])
            value = bodies.parse(body)
        if call.subresource == "scale":
            scale = await self._write(
                call,
                lambda transaction: subresources.patch_scale(life, transaction, call, value, media_type=offered),
            )
            return answer(msgspec.json.encode(scale))
        if offered == patching.APPLY_PATCH:
            stored, created = await self._write(
                call, lambda transaction: patching.apply_object(life, transaction, call, value)
            )
            return answer(renderer.one(stored), code=201 if created else 200, call=call)
        stored = await self._write(
            call, lambda transaction: patching.patch_object(life, transaction, call, value, media_type=offered)
        )
        return answer(renderer.one(stored), call=call)

    async def delete(self, request: web.Request, target: Target, *, user: User, renderer: Renderer) -> web.Response:
        """DELETE of an object, or of a collection."""
        body, offered = await read(request, JSON, YAML, protobuf.MEDIA_TYPE, "application/octet-stream")
        sent = parse(body, offered) if body.strip() else {}
        options = deletion.read_options(sent, dict(request.query))
        call = msgspec.structs.replace(self._call(request, target, user), dry_run=options.dry_run)
        life = self._life
        if target.name:
            stored, gone = await self._write(
                call, lambda transaction: deletion.delete(life, transaction, call, options)
            )
            if not gone or call.resource.plural in ("pods", "services", "serviceaccounts"):
                return answer(renderer.one(stored))
            details = {"name": call.name, "kind": call.resource.plural}
            if call.resource.group:
                details["group"] = call.resource.group
            details["uid"] = decode(call.resource, stored)["metadata"]["uid"]
            return answer(msgspec.json.encode(success(details=details)))
        selection = selection_of(target, request.query)

        def delete_all(transaction: Transaction) -> list[Any]:
            cache = self._state.cache(target.resource)
            held = {(stored.namespace, stored.name): stored for stored in transaction.all(target.resource)}
            chosen = cache.select(held, namespace=target.namespace, selection=selection)
            return deletion.delete_all(life, transaction, call, options, chosen=chosen)

        done = await self._write(call, delete_all)
        return answer(renderer.many(done, {"resourceVersion": str(self._state.version)}))


def success(*, code: int = 0, details: Json | None = None) -> Json:
    """Returns the Status of a request that has nothing else to answer."""
    status: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        status["details"] = details
    return {**status, "code": code} if code else status
