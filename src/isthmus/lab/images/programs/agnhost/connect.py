"""connect: tries a connection and says how it failed, in one of five words that tests look for."""

import socket
import sys

from isthmus.lab.images.programs.agnhost.command import Values
from isthmus.lab.images.programs.agnhost.plumbing import client
from isthmus.model.durations import seconds

PROTOCOLS = ("tcp", "udp", "sctp")
_TIMED_OUT, _REFUSED = 110, 111


def connect(words: list[str], values: Values) -> int:
    """Tries; returns the exit code."""
    protocol = values["protocol"] or "tcp"
    if protocol not in PROTOCOLS:
        return _say(f"Unsupported protocol: {protocol}")
    host, colon, port = words[0].rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        missing = "missing port in address" if not colon else "too many colons in address"
        return _say(f"UNKNOWN: address {words[0]}: {missing}")
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]") or "localhost", int(port), type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError, OverflowError) as error:
        return _say(f"DNS: {error}")
    limit = seconds(values["timeout"]) or None
    try:
        with client(family, protocol) as peer:
            peer.settimeout(limit)
            peer.connect(address)
            if protocol != "tcp":
                peer.send(f"{values[f'{protocol}-data']}\n".encode(errors="replace"))
                if not peer.recv(1024):
                    return _say("OTHER: No data received from the server.")
    except TimeoutError:
        return _say("TIMEOUT")
    except OSError as error:
        if error.errno == _REFUSED:
            return _say("REFUSED")
        return _say("TIMEOUT" if error.errno == _TIMED_OUT else f"OTHER: {error.strerror or error}")
    return 0


def _say(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
    return 1
