"""Logs, exec, attach and port-forward: passed through to the node that runs the pod.

The node is found as the real server finds a kubelet: the InternalIP of the Node object and its daemon endpoint.
WebSocket frames pass one by one, unread, with the subprotocol that the node chose, so channels, resizing and
half-closes (v5) are between kubectl and the node. A frame is read only when the last one was written: a slow side
slows the other and fills nothing. What is upgraded to SPDY (kubectl before 1.31, and every port-forward) is passed on
as bytes (see `tunnel`).
"""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import ApiError, Json
from isthmus.lab.apiserver.http import tunnel
from isthmus.lab.apiserver.http.routing import Target
from isthmus.lab.apiserver.http.tunnel import SPDY, STREAM_VERSION
from isthmus.lab.apiserver.inputs.parameters import flag
from isthmus.lab.apiserver.schema.kinds import Registry
from isthmus.lab.apiserver.storage.state import State, decode
from isthmus.lab.upgrade import Ask, RefusedError, dial

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
FORWARD = "portforward.k8s.io"
MAX_FRAME = 4 * 1024 * 1024  # bytes
CONNECT_TIME = 10.0  # seconds until a node must have answered
CLOSE_TIME = 5.0  # seconds for the second side to close

_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_DEFAULT_PORT = 10250
_LOG_PARAMETERS = ("follow", "previous", "timestamps", "tailLines", "sinceSeconds", "sinceTime", "limitBytes", "stream")
_RESERVED_CODES = (1004, 1005, 1006, 1015)  # RFC 6455: may not be sent; here the connection broke
_ERROR_CHANNEL = b"\x03"
_STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}


class NodeAccess(msgspec.Struct, frozen=True):
    """How to reach nodes: over HTTPS if `ca` is given, else over plain HTTP; files are read when first needed."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None


class NodeProxy:
    """Passes requests on to nodes. `close` ends the sessions under way."""

    def __init__(self, *, state: State, registry: Registry, access: NodeAccess) -> None:
        self._state = state
        self._registry = registry
        self._access = access
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections to nodes."""
        if self._session is not None:
            await self._session.close()

    def _tls(self) -> ssl.SSLContext | None:
        access = self._access
        if access.ca is None:
            return None
        context = ssl.create_default_context(cafile=str(access.ca))
        if access.certificate is not None:
            context.load_cert_chain(str(access.certificate), str(access.key) if access.key else None)
        return context

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context: ssl.SSLContext | bool = self._tls() or True
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIME)
            # A connection that was kept may lead to a node that is not there any more, and would not say so.
            connector = aiohttp.TCPConnector(ssl=context, limit=0, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self._session

    def _headers(self) -> dict[str, str]:
        path = self._access.token_file
        if path is None:
            return {}
        try:
            return {"Authorization": f"Bearer {path.read_text(encoding='utf-8').strip()}"}
        except OSError as failure:
            raise errors.internal(f"the token for nodes cannot be read: {failure}") from failure

    def _pod(self, target: Target) -> Json:
        stored = self._state.cache(target.resource).objects.get((target.namespace, target.name))
        if stored is None:
            raise errors.not_found(target.resource.qualified, target.name)
        return decode(target.resource, stored)

    def _url(self, pod: Json, path: str, query: Sequence[tuple[str, str]]) -> URL:
        node_name = pod.get("spec", {}).get("nodeName", "")
        nodes = self._registry.get("nodes")
        stored = self._state.cache(nodes).objects.get(("", node_name))
        if stored is None:
            raise errors.not_found("nodes", node_name)
        status = decode(nodes, stored).get("status", {})
        held = {item.get("type"): item.get("address", "") for item in reversed(status.get("addresses", ()))}
        address = held.get("InternalIP") or held.get("Hostname")
        if not address:
            raise ApiError(502, "InternalError", f'error dialing backend: node "{node_name}" has no address')
        port = status.get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port") or _DEFAULT_PORT
        scheme = "https" if self._access.ca is not None else "http"
        return URL.build(scheme=scheme, host=address, port=port, path=path).with_query(list(query))

    async def logs(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Answers pods/log."""
        pod = self._pod(target)
        container = container_of(pod, request.query.get("container", ""))
        response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-cache, private"})
        if not pod["spec"].get("nodeName"):
            await response.prepare(request)
            await response.write_eof()
            return response
        query = [(name, request.query[name]) for name in _LOG_PARAMETERS if name in request.query]
        url = self._url(pod, f"/containerLogs/{target.namespace}/{target.name}/{container}", query)
        try:
            async with asyncio.timeout(CONNECT_TIME):
                # A node answers at once, and only the log itself may take its time.
                answer = await self._open().get(url, headers=self._headers())
            async with answer:
                if answer.status != 200:
                    text = (await answer.content.read(4096)).decode(errors="replace").strip()
                    raise _node_refused(answer.status, text)
                response.enable_chunked_encoding()
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
        except (aiohttp.ClientError, TimeoutError) as failure:
            if not response.prepared:
                raise _unreachable(url, failure) from failure
            if request.transport is not None:
                request.transport.abort()  # the status line is out: a body that never ends is all that is left to say
            return response
        await response.write_eof()
        return response

    async def _dial(self, url: URL, protocols: list[str]) -> aiohttp.ClientWebSocketResponse:
        try:
            async with asyncio.timeout(CONNECT_TIME):
                return await self._open().ws_connect(
                    url, protocols=protocols, headers=self._headers(), autoclose=False, max_msg_size=MAX_FRAME
                )
        except aiohttp.WSServerHandshakeError as failure:
            raise _node_refused(failure.status, failure.message) from failure
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise _unreachable(url, failure) from failure

    async def stream(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Answers pods/exec and pods/attach."""
        query = request.query
        pod = self._pod(target)
        container = container_of(pod, query.get("container", ""))
        passed = [("command", word) for word in query.getall("command", [])]
        if target.subresource == "exec" and not passed:
            raise errors.bad_request("you must specify at least 1 command for the container")
        streams = [(word, "1") for name, word in _STREAMS.items() if flag(query, name)]
        if not [name for name, _ in streams if name != "tty"]:
            raise errors.bad_request("you must specify at least 1 of stdin, stdout, stderr")
        if not pod["spec"].get("nodeName"):
            raise errors.bad_request(f"pod {target.name} does not have a host assigned")
        path = f"/{target.subresource}/{target.namespace}/{target.name}/{container}"
        url = self._url(pod, path, [*passed, *streams])
        upgrade = request.headers.get("Upgrade", "").lower()
        if upgrade == SPDY.lower():
            return await self._tunnel(request, url, request.headers.getall(STREAM_VERSION, []))
        if upgrade != "websocket":
            raise errors.bad_request("Upgrade request required")
        offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        known = [word for word in offered if word in PROTOCOLS]
        if not known:
            raise errors.bad_request(f"unsupported subprotocol: one of {', '.join(PROTOCOLS)} is needed")
        try:
            node = await self._dial(url, known)
        except ApiError as failure:
            return await _refuse(request, failure, protocol=known[0])
        async with node:
            if node.protocol is None:
                raise ApiError(502, "InternalError", "error dialing backend: the node chose no subprotocol")
            client = web.WebSocketResponse(
                protocols=(node.protocol,), autoclose=False, max_msg_size=MAX_FRAME, compress=False
            )
            await client.prepare(request)
            await _couple(client, node)
        return client

    async def forward(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Answers pods/portforward."""
        pod = self._pod(target)
        if pod.get("status", {}).get("phase") not in ("Running", "Pending", None):
            raise errors.bad_request(f"unable to forward port because pod is not running: {target.name}")
        if not pod["spec"].get("nodeName"):
            raise errors.bad_request(f"pod {target.name} does not have a host assigned")
        url = self._url(pod, f"/portForward/{target.namespace}/{target.name}", [])
        upgrade = request.headers.get("Upgrade", "").lower()
        if upgrade == SPDY.lower():
            return await self._tunnel(request, url, request.headers.getall(STREAM_VERSION, [FORWARD]))
        offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if upgrade != "websocket" or tunnel.PROTOCOL not in offered:
            raise errors.bad_request("Upgrade request required")
        return await self._tunnel(request, url, [FORWARD])

    async def _tunnel(self, request: web.Request, url: URL, versions: Sequence[str]) -> web.StreamResponse:
        """Joins the client to an upgraded connection to the node."""
        headers = [*self._headers().items(), *((STREAM_VERSION, version) for version in versions)]
        ask = Ask(path=url.raw_path_qs, protocol=SPDY, headers=headers)
        try:
            async with asyncio.timeout(CONNECT_TIME):
                node = await dial(url.host or "", url.port or _DEFAULT_PORT, ask, tls=self._tls())
        except RefusedError as failure:
            raise _node_refused(failure.status, failure.said) from failure
        except (OSError, TimeoutError) as failure:
            raise _unreachable(url, failure) from failure
        return await tunnel.join_client(request, node)


Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _refuse(request: web.Request, failure: ApiError, *, protocol: str) -> web.WebSocketResponse:
    """Tells a failure on the error channel, as the real server does: after a refused upgrade kubectl tries SPDY."""
    client = web.WebSocketResponse(protocols=(protocol,), compress=False)
    await client.prepare(request)
    await client.send_bytes(_ERROR_CHANNEL + msgspec.json.encode(failure.body()))
    await client.close()
    return client


async def _couple(client: web.WebSocketResponse, node: aiohttp.ClientWebSocketResponse) -> None:
    """Passes frames both ways until one side ends, then closes the other with the same code."""
    first = asyncio.create_task(_pump(client, node))
    second = asyncio.create_task(_pump(node, client))
    try:
        done, _ = await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
        ended = first if first in done else second
        code, reason = ended.result()
        if code in _RESERVED_CODES:
            code = aiohttp.WSCloseCode.INTERNAL_ERROR
        for side in (client, node):
            try:
                async with asyncio.timeout(CLOSE_TIME):
                    await side.close(code=code, message=reason)
            except (TimeoutError, ConnectionError, RuntimeError):
                continue  # that side is gone or does not answer; its socket is closed with the session
    finally:
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def _pump(source: Side, sink: Side) -> tuple[int, bytes]:
    """Passes frames until `source` ends; returns the close code and reason to tell the other side."""
    while True:
        message = await source.receive()
        try:
            if message.type is aiohttp.WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                await sink.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.CLOSE:
                code = message.data if isinstance(message.data, int) and message.data else 1000
                return code, (message.extra or "").encode()
            elif message.type in (aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                return source.close_code or 1001, b""
            elif message.type is aiohttp.WSMsgType.ERROR:
                return 1011, b"the connection to the other side failed"
        except (ConnectionError, aiohttp.ClientError, RuntimeError):
            return 1001, b"the other side is gone"


def container_of(pod: Json, asked: str) -> str:
    """Returns the container to use; raises 400 if it does not exist or has to be named."""
    name = pod["metadata"]["name"]
    spec = pod.get("spec", {})
    held = [item["name"] for item in spec.get("containers", ())]
    every = held + [item["name"] for kind in ("initContainers", "ephemeralContainers") for item in spec.get(kind, ())]
    if asked:
        if asked not in every:
            raise errors.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    chosen = pod["metadata"].get("annotations", {}).get(_DEFAULT_CONTAINER, "")
    if chosen in every:
        return str(chosen)
    if len(held) == 1:
        return str(held[0])
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(held)}]"
    raise errors.bad_request(text)


def _unreachable(url: URL, failure: BaseException) -> ApiError:
    detail = str(failure) or "timed out"
    return ApiError(502, "InternalError", f"error dialing backend: {url.host}:{url.port}: {detail}")


def _node_refused(status: int, text: str) -> ApiError:
    reasons = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}
    code = status if status in reasons else 502
    # What is the user's fault is told in the node's words, as by the real server; the rest says who spoke.
    told = text if status in (400, 404) and text else f"the node answered {status}: {text}"
    return ApiError(code, reasons.get(status, "InternalError"), told[:1024])
