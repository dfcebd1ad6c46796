"""The HTTP face: finds the caller, the target and the verb, and turns every failure into a Status.

One handler takes all paths, because paths follow from the registry, which changes while the server runs; a router
with a route per resource was rejected. Nothing here knows a kind.
"""

import datetime
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog
from aiohttp import web

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.access.auth import PUBLIC_PATHS, Authenticator, User, impersonated
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.errors import ApiError, Json
from isthmus.lab.apiserver.extensions.serving import Serving
from isthmus.lab.apiserver.http.proxy import NodeProxy
from isthmus.lab.apiserver.http.reading import get, list_objects
from isthmus.lab.apiserver.http.representation import Renderer, as_yaml, negotiate
from isthmus.lab.apiserver.http.routing import Target, resolve
from isthmus.lab.apiserver.http.watching import watch
from isthmus.lab.apiserver.http.writing import Writing, answer, quoted
from isthmus.lab.apiserver.inputs import decoding
from isthmus.lab.apiserver.inputs.parameters import flag
from isthmus.lab.apiserver.schema import discovery, openapi, openapi_proto
from isthmus.lab.apiserver.schema.kinds import Registry
from isthmus.lab.apiserver.storage.state import State

_log = structlog.get_logger(__name__)

PIECE = 64 * 1024  # bytes of an answer in one write
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


class Server:
    """Answers requests over one state. `ready` is set by whoever starts it, when the state is complete."""

    def __init__(
        self, *, state: State, life: Lifecycle, authenticator: Authenticator, proxy: NodeProxy, address: str = ""
    ) -> None:
        self._state = state
        self._registry: Registry = life.registry
        self._authenticator = authenticator
        self._proxy = proxy
        self._address = address
        self._writing = Writing(state=state, life=life, authenticator=authenticator)
        self._extensions = Serving(state=state, life=life)
        self.ready = False

    def application(self) -> web.Application:
        """Returns the aiohttp application."""
        app = web.Application(client_max_size=decoding.MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_shutdown.append(self._end_streams)
        app.cleanup_ctx.append(self._extensions.running)
        return app

    async def _end_streams(self, _app: web.Application) -> None:
        self.ready = False
        self._state.end_watches()
        await self._proxy.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as failure:
            return _failed(failure)
        except web.HTTPException:
            raise
        except ConnectionResetError:
            raise  # the client went; aiohttp ends the handler quietly
        except Exception as failure:
            _log.exception("request_failed", method=request.method, path=request.path)
            return _failed(errors.internal(f"{type(failure).__name__} while handling the request"))

    def _user(self, request: web.Request) -> User | None:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        user = self._authenticator.user(certificate=certificate, authorization=request.headers.get("Authorization", ""))
        if user is None or "Impersonate-User" not in request.headers:
            return user
        return impersonated(user, request.headers, request.headers.getall("Impersonate-Group", []))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        if path in PUBLIC_PATHS or path.startswith(("/healthz/", "/livez/", "/readyz/")):
            return self._public(path)
        user = self._user(request)
        if user is None:
            raise errors.unauthorized()
        target = resolve(path, self._registry)
        if target is None:
            return self._about(request, path)
        return await self._resource(request, target, user)

    def _public(self, path: str) -> web.Response:
        if path == "/version":
            return answer(msgspec.json.encode(discovery.version_info()))
        if path.startswith("/readyz") and not self.ready:
            return web.Response(text="not ready", status=500)
        return web.Response(text="ok")

    def _about(self, request: web.Request, path: str) -> web.Response:
        """Answers what is not about objects: discovery and OpenAPI."""
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed()
        registry, parts = self._registry, path.strip("/").split("/")
        accept = request.headers.get("Accept", "")
        body: Json | None = None
        if path in ("/api", "/apis"):
            form = aggregated_form(accept)
            if form:
                return _aggregated(registry, core=path == "/api", form=form)
            core = path == "/api"
            body = discovery.core_versions(self._address) if core else discovery.group_list(registry)
        elif len(parts) == 2 and parts[0] == "apis":
            body = discovery.group(registry, parts[1])
        elif len(parts) == 2 and parts[0] == "api":
            body = discovery.resource_list(registry, name="", version=parts[1])
        elif len(parts) == 3 and parts[0] == "apis":
            body = discovery.resource_list(registry, name=parts[1], version=parts[2])
        elif path == "/openapi/v2":
            document = openapi.version_2(registry)
            if "proto-openapi.spec.v2" in accept:
                return web.Response(
                    body=openapi_proto.encode(document), headers={"Content-Type": openapi_proto.MEDIA_TYPE}
                )
            body = document
        elif path == "/openapi/v3":
            body = openapi.index(registry)
        elif parts[:2] == ["openapi", "v3"] and len(parts) in (4, 5):
            group = parts[3] if len(parts) == 5 else ""
            body = openapi.version_3(registry, group=group, version=parts[-1])
        elif path == "/":
            body = {"paths": sorted(["/api", "/apis", "/openapi/v2", "/openapi/v3", *PUBLIC_PATHS])}
        if body is None:
            raise errors.unknown_path()
        return answer(msgspec.json.encode(body))

    async def _resource(self, request: web.Request, target: Target, user: User) -> web.StreamResponse:
        resource, sub = target.resource, target.resource.subresource(target.subresource)
        method = "GET" if request.method == "HEAD" else request.method
        verbs = sub.verbs if sub is not None else resource.verbs
        verb = _VERBS.get(method, "")
        if method == "GET":
            verb = "get" if target.name else "list"
        elif method == "DELETE":
            verb = "delete" if target.name else "deletecollection"
        if verb not in verbs or (verb in ("update", "patch") and not target.name):
            raise errors.method_not_allowed()
        if verb == "create" and target.name and sub is None:
            raise errors.method_not_allowed()
        if target.subresource in ("exec", "attach"):
            return await self._proxy.stream(request, target)
        if target.subresource == "portforward":
            return await self._proxy.forward(request, target)
        if target.subresource == "log":
            return await self._proxy.logs(request, target)
        form = negotiate(request.headers.get("Accept", ""))
        renderer = Renderer(
            resource,
            form,
            include=request.query.get("includeObject", ""),
            now=datetime.datetime.now(datetime.UTC),
        )
        if method == "GET" and flag(request.query, "watch"):
            if sub is not None or "watch" not in verbs:
                raise errors.method_not_allowed()
            return await watch(request, state=self._state, target=target, renderer=renderer)
        response = await self._perform(request, target, verb, user=user, renderer=renderer)
        if resource.deprecation:
            response.headers.add("Warning", f'299 - "{quoted(resource.deprecation)}"')
        if form.media == "application/yaml" and isinstance(response.body, bytes):
            response.body = as_yaml(response.body)
            response.content_type = form.media
        if request.method == "GET" and isinstance(response.body, bytes) and len(response.body) > PIECE:
            return await _in_pieces(request, response.body, response.headers)
        return response

    async def _perform(
        self, request: web.Request, target: Target, verb: str, *, user: User, renderer: Renderer
    ) -> web.Response:
        writing = self._writing
        changes: dict[str, Callable[..., Awaitable[web.Response]]] = {
            "create": writing.create,
            "update": writing.update,
            "patch": writing.patch,
            "delete": writing.delete,
            "deletecollection": writing.delete,
        }
        if verb in changes:
            return await changes[verb](request, target, user=user, renderer=renderer)
        if verb == "list":
            return answer(list_objects(self._state, target, request.query, renderer))
        stored = get(self._state, target, request.query)
        if target.subresource == "scale":
            return answer(msgspec.json.encode(self._writing.scale(target, stored)))
        return answer(renderer.one(stored))


async def _in_pieces(request: web.Request, body: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    """Sends a large body piece by piece: TLS buffers grow to the largest write of a connection and never shrink."""
    response = web.StreamResponse(headers={"Content-Type": headers["Content-Type"]})
    response.content_length = len(body)
    await response.prepare(request)
    view = memoryview(body)
    for start in range(0, len(view), PIECE):
        await response.write(view[start : start + PIECE])
    await response.write_eof()
    return response


def aggregated_form(accept: str) -> str:
    """Returns the version of aggregated discovery that the client prefers, "" for the old form."""
    for clause in accept.split(","):
        media, *rest = [part.strip() for part in clause.split(";")]
        options = dict(part.partition("=")[::2] for part in rest)
        if media == "application/json" and not options.get("as"):
            return ""
        wanted = options.get("g") == discovery.DISCOVERY_GROUP and options.get("as") == "APIGroupDiscoveryList"
        if media == "application/json" and wanted and options.get("v") in discovery.AGGREGATED:
            return options["v"]
    return ""


def _aggregated(registry: Registry, *, core: bool, form: str) -> web.Response:
    body = msgspec.json.encode(discovery.aggregated(registry, core=core, form=form))
    media = f"application/json;g={discovery.DISCOVERY_GROUP};v={form};as=APIGroupDiscoveryList"
    return web.Response(body=body, headers={"Content-Type": media, "Vary": "Accept"})


def _failed(failure: ApiError) -> web.Response:
    response = web.Response(
        body=msgspec.json.encode(failure.body()), status=failure.code, content_type="application/json"
    )
    seconds = (failure.details or {}).get("retryAfterSeconds")
    if seconds:
        response.headers["Retry-After"] = str(seconds)
    return response
