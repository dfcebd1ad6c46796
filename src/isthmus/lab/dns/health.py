"""What the kubelet and Prometheus ask: /health, /ready, /metrics, each on a port of its own, as CoreDNS has them."""

from collections import Counter
from collections.abc import Callable

from isthmus.lab.images.programs.loop import Loop, listen
from isthmus.lab.images.programs.messages import Request, Response
from isthmus.lab.images.programs.web import Reply, Server

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


def serve_page(loop: Loop, port: int, path: str, page: Page) -> None:
    """Serves one page on a port, everything else is 404; raises OSError."""

    def answer(request: Request, reply: Reply) -> None:
        status, text = page() if request.path == path else (404, "404 page not found\n")
        reply(Response(status, text.encode(), [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")]))

    Server(loop, listen(port), answer)
