"""What the kubelet and Prometheus ask: /health, /ready, /metrics, each on a port of its own, as CoreDNS has them."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable

_LIMIT = 5.0
"""Seconds for a request."""
_MAX_HEAD = 8 * 1024
_TYPES = {1: "A", 28: "AAAA", 33: "SRV", 12: "PTR", 6: "SOA", 2: "NS", 5: "CNAME", 15: "MX", 16: "TXT", 255: "ANY"}
_CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}

Page = Callable[[], tuple[int, str]]
"""Returns status and text."""


class Counts:
    """What has been answered; types and codes are a closed set, so that no client can fill the memory."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._responses: Counter[str] = Counter()

    def add(self, proto: str, type: int, code: int) -> None:
        """Counts an answer."""
        self._requests[proto, _TYPES.get(type, "other")] += 1
        self._responses[_CODES.get(code, "other")] += 1

    def text(self) -> str:
        """Returns the metrics in Prometheus' text format."""
        lines = ["# HELP coredns_dns_requests_total Counter of DNS requests made per protocol and type."]
        lines.append("# TYPE coredns_dns_requests_total counter")
        for (proto, kind), count in sorted(self._requests.items()):
            labels = f'proto="{proto}",server="dns://:53",type="{kind}",zone="."'
            lines.append(f"coredns_dns_requests_total{{{labels}}} {count}")
        lines.append("# HELP coredns_dns_responses_total Counter of response status codes.")
        lines.append("# TYPE coredns_dns_responses_total counter")
        for code, count in sorted(self._responses.items()):
            lines.append(
                f'coredns_dns_responses_total{{plugin="kubernetes",rcode="{code}",server="dns://:53"}} {count}'
            )
        return "\n".join([*lines, ""])


async def serve_page(path: str, page: Page, listener: socket.socket) -> asyncio.Server:
    """Serves one page; everything else is 404."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_LIMIT):
                head = await reader.readuntil(b"\r\n\r\n")
                words = head.partition(b"\r\n")[0].split(b" ")
                found = len(words) == 3 and words[0] in (b"GET", b"HEAD")
                status, text = (
                    page() if found and words[1].partition(b"?")[0] == path.encode() else (404, "not found\n")
                )
                reason = {200: "OK", 404: "Not Found"}.get(status, "Service Unavailable")
                body = text.encode()
                head_line = f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8"
                writer.write(f"{head_line}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
                if words[0] != b"HEAD":
                    writer.write(body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            writer.close()

    return await asyncio.start_server(answer, sock=listener, limit=_MAX_HEAD)
