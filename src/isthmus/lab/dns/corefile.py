"""CoreDNS's configuration file, as far as this server obeys it.

Invariants: a plugin or option that would change answers and is not known here is an error with its line; plugins that
only concern speed or logs are accepted; `forward` is accepted with a warning, because every stock Corefile has it, and
there is nobody to forward to. Rejected: a format of our own, which nobody who knows Kubernetes would look for.
"""

from typing import NamedTuple

from isthmus.model.durations import seconds
from isthmus.wire.dns import DnsError, Name, lowered, parse_name

MAX_BYTES = 256 * 1024
DEFAULT = """.:53 {
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa
    prometheus :9153
}
"""
_HARMLESS = frozenset("errors log cache loop reload loadbalance bufsize minimal local debug".split())
_MAX_TTL = 3600


class CorefileError(Exception):
    """The file cannot be used; the message has the line."""


class Settings(NamedTuple):
    """What the file says. Ports of 0 are not served; `lameduck` in seconds."""

    port: int = 53
    origins: tuple[Name, ...] = ()
    multicluster: tuple[Name, ...] = ()
    """Those of the origins whose names are of ServiceImports."""
    ttl: int = 5
    pods: bool = False
    health: int = 0
    ready: int = 0
    metrics: int = 0
    lameduck: float = 0.0
    warnings: tuple[str, ...] = ()


class _Line(NamedTuple):
    words: list[str]
    number: int


def parse(text: str) -> Settings:
    """Returns the settings; raises CorefileError."""
    if len(text) > MAX_BYTES:
        raise CorefileError(f"Corefile: longer than {MAX_BYTES} bytes")
    lines = [
        _Line(words, number)
        for number, line in enumerate(text.splitlines(), 1)
        if (words := line.partition("#")[0].split())
    ]
    if not lines or lines[0].words[-1] != "{" or len(lines[0].words) != 2:
        raise CorefileError("Corefile:1: expected one server block such as `.:53 {`")
    settings = Settings(port=_port(lines[0], lines[0].words[0].removeprefix("dns://").rpartition(":")[2] or "53"))
    at = 1
    while at < len(lines) and lines[at].words != ["}"]:
        line = lines[at]
        at += 1
        options: list[_Line] = []
        if line.words[-1] == "{":
            line.words.pop()
            while at < len(lines) and lines[at].words != ["}"]:
                if "{" in lines[at].words:
                    raise CorefileError(f"Corefile:{lines[at].number}: unexpected block")
                options.append(lines[at])
                at += 1
            at += 1
        settings = _plugin(settings, line, options)
    if at != len(lines) - 1:
        where = lines[min(at + 1, len(lines) - 1)].number
        raise CorefileError(f"Corefile:{where}: expected one server block, closed by a `}}`")
    if not settings.origins:
        raise CorefileError("Corefile: the plugin `kubernetes` is missing")
    return settings


def _plugin(settings: Settings, line: _Line, options: list[_Line]) -> Settings:
    name, *args = line.words
    if name in _HARMLESS:
        return settings
    match name:
        case "health":
            for option in options:
                if option.words[0] != "lameduck" or len(option.words) != 2:
                    raise _unknown(option)
                settings = settings._replace(lameduck=_duration(option))
            return settings._replace(health=_port(line, args[0].rpartition(":")[2]) if args else 8080)
        case "ready":
            return settings._replace(ready=_port(line, args[0].rpartition(":")[2]) if args else 8181)
        case "prometheus":
            return settings._replace(metrics=_port(line, args[0].rpartition(":")[2]) if args else 9153)
        case "forward":
            warning = "plugin/forward: the lab has no upstream: names outside of the cluster are refused"
            return settings._replace(warnings=(*settings.warnings, warning))
        case "kubernetes":
            return _kubernetes(settings, line, args, options)
    raise _unknown(line)


def _kubernetes(settings: Settings, line: _Line, args: list[str], options: list[_Line]) -> Settings:
    if not args:
        raise CorefileError(f"Corefile:{line.number}: `kubernetes` needs zones")
    origins = _names(line, args)
    settings = settings._replace(origins=settings.origins + origins)
    for option in options:
        match option.words:
            case ["pods", "insecure"]:
                settings = settings._replace(pods=True)
            case ["pods", "disabled"]:
                settings = settings._replace(pods=False)
            case ["ttl", text] if text.isascii() and text.isdigit() and int(text) <= _MAX_TTL:
                settings = settings._replace(ttl=int(text))
            case ["multicluster", *names] if names:
                settings = settings._replace(multicluster=settings.multicluster + _multicluster(option, origins))
            case ["fallthrough", *_]:
                continue  # nothing comes after us: what is not found does not exist
            case _:
                raise _unknown(option)
    return settings


def _multicluster(line: _Line, origins: tuple[Name, ...]) -> tuple[Name, ...]:
    """Returns the zones of a ClusterSet (CoreDNS 1.12.2 and later), which are to be zones of the plugin too."""
    found = _names(line, line.words[1:])
    for word, name in zip(line.words[1:], found, strict=True):
        if name not in origins:
            raise CorefileError(f"Corefile:{line.number}: `{word}` is not a zone of this `kubernetes`")
    if all(origin in found for origin in origins if origin[-1:] != (b"arpa",)):
        raise CorefileError(f"Corefile:{line.number}: `kubernetes` needs the cluster's own zone too")
    return found


def _names(line: _Line, words: list[str]) -> tuple[Name, ...]:
    try:
        return tuple(lowered(parse_name(word)) for word in words)
    except DnsError as error:
        raise CorefileError(f"Corefile:{line.number}: {error}") from error


def _unknown(line: _Line) -> CorefileError:
    return CorefileError(f"Corefile:{line.number}: `{' '.join(line.words)}` is not supported")


def _port(line: _Line, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise CorefileError(f"Corefile:{line.number}: `{text}` is not a port")
    return int(text)


def _duration(line: _Line) -> float:
    found = seconds(line.words[1])
    if found is None or found > 60:
        raise CorefileError(f"Corefile:{line.number}: `{line.words[1]}` is not a duration of at most a minute")
    return found
