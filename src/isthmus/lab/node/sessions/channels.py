"""The streams of `exec` and `attach` in one WebSocket: Kubernetes' v4 and v5.channel.k8s.io.

The first byte of a binary message is its channel. v5 adds a message that closes a channel: 255 and the channel's
number, which is how standard input ends. The last thing the server says is a Status on the error channel. Messages
from the client are untrusted: unknown channels and malformed sizes are ignored.
"""

import msgspec

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


class Input(msgspec.Struct, frozen=True):
    """Bytes for standard input."""

    data: bytes


class EndOfInput(msgspec.Struct, frozen=True):
    """Standard input is closed."""


class Resize(msgspec.Struct, frozen=True, rename="pascal"):
    """The client's terminal has a new size."""

    width: int = 0
    height: int = 0


Message = Input | EndOfInput | Resize


def decode_size(text: bytes) -> Resize | None:
    """Returns the size in a message; None for nonsense."""
    try:
        return msgspec.json.decode(text, type=Resize)
    except msgspec.DecodeError:
        return None


def decode(message: bytes) -> Message | None:
    """Returns what a client's message means; None if it means nothing."""
    if not message:
        return None
    channel, payload = message[0], message[1:]
    if channel == STDIN:
        return Input(payload) if payload else None
    if channel == CLOSE:
        return EndOfInput() if payload[:1] == bytes([STDIN]) else None
    if channel == RESIZE:
        return decode_size(payload)
    return None


def encode(channel: int, data: bytes) -> bytes:
    """Returns a message for the client."""
    return bytes([channel]) + data


def success() -> bytes:
    """Returns the Status that says: exit code 0. It goes to the error channel, as the others do."""
    return msgspec.json.encode({"metadata": {}, "status": "Success"})


def exited(code: int) -> bytes:
    """Returns the Status for an exit code; kubectl exits with the code in the cause."""
    if code == 0:
        return success()
    status = {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
    return msgspec.json.encode(status)
