"""Joins a client's upgraded connection to a node's: bytes of SPDY, which neither this server nor this file reads.

kubectl since 1.31 puts the bytes into binary WebSocket messages (KEP-4006), older ones upgrade the connection itself;
the node sees no difference, as with the real server.
"""

import aiohttp
from aiohttp import web

from isthmus.lab.upgrade import Dialled, accept, join

SPDY = "SPDY/3.1"
PROTOCOL = "SPDY/3.1+portforward.k8s.io"
STREAM_VERSION = "X-Stream-Protocol-Version"
MAX_MESSAGE = 4 * 1024 * 1024  # bytes


class _Messages:
    """A WebSocket as a row of bytes."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        """Returns the bytes of the next message, b"" at the end."""
        while True:
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                return b""
            if message.data:
                return bytes(message.data)

    async def write(self, data: bytes) -> None:
        """Sends a message; raises ConnectionError."""
        await self._socket.send_bytes(data)

    async def close(self) -> None:
        """Closes the WebSocket."""
        await self._socket.close()


async def join_client(request: web.Request, node: Dialled) -> web.StreamResponse:
    """Takes the client's connection over and joins it to `node`, until either ends."""
    try:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket = web.WebSocketResponse(protocols=(PROTOCOL,), max_msg_size=MAX_MESSAGE, compress=False)
            await socket.prepare(request)
            await join(_Messages(socket), node)
            return socket
        chosen = node.headers.get(STREAM_VERSION.lower(), "")
        client = await accept(request, SPDY, {STREAM_VERSION: chosen} if chosen else {})
        await join(client, node)
        return client.response
    finally:
        await node.close()
