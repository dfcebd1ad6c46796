"""Which images exist, and what each of them runs.

Invariants: an image is known by the last part of its repository, whatever registry, tag or digest is written, because
there is one build of each and nothing is pulled; an unknown image is an error that names those which exist, as a
mistyped name must not become a pod that runs something else. Rejected: unpacking real images, which needs a registry,
disk and root.
"""

from collections.abc import Sequence

import msgspec


class Image(msgspec.Struct, frozen=True):
    """An image: what its entrypoint and command are, in Dockerfile terms."""

    name: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """What a container status shows as imageID."""
        return f"lab/{self.name}"


PATH = "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin"
"""In a pod /bin holds busybox's applets; the machine's own programs come after them."""

AGNHOST = "/agnhost"

# curlimages/curl's entrypoint: arguments that are no program are curl's.
_CURL_ENTRYPOINT = (
    'case "${1-}" in -*|*://*) set -- curl "$@";; esac; command -v "$1" >/dev/null || set -- curl "$@"; exec "$@"'
)

_IMAGES = (
    Image("agnhost", entrypoint=(AGNHOST,), command=("pause",)),
    Image("busybox", command=("sh",)),
    Image("curl", entrypoint=("/bin/sh", "-c", _CURL_ENTRYPOINT, "curl"), command=("curl",)),
    Image("pause", entrypoint=("/bin/sleep", "2147483647")),
)
_BY_NAME = {image.name: image for image in _IMAGES}


class UnknownImage(Exception):
    """No such image; the message says which ones exist."""


def find_image(reference: str) -> Image:
    """Returns the image for a reference such as `docker.io/library/busybox:1.36`; raises UnknownImage."""
    image = _BY_NAME.get(short_name(reference))
    if image is None:
        raise UnknownImage(
            f'failed to pull and unpack image "{reference}": not among the images of the lab, '
            f"which are {', '.join(sorted(_BY_NAME))}"
        )
    return image


def short_name(reference: str) -> str:
    """Returns the last part of a reference's repository, without tag and digest."""
    repository = reference.partition("@")[0].rpartition("/")[2]
    return repository.partition(":")[0].lower()


def full_argv(image: Image, *, command: Sequence[str], args: Sequence[str]) -> tuple[str, ...]:
    """Returns what runs when a container says `command` and `args` (both already expanded), as the API defines it."""
    if command:
        return (*command, *args)
    return (*image.entrypoint, *(args or image.command))


def served_ports(argv: Sequence[str]) -> tuple[int, ...]:
    """Returns the TCP ports that a program of the lab will listen on: it is not ready before it does."""
    if len(argv) < 2 or argv[0] != AGNHOST:
        return ()
    match argv[1]:
        case "netexec":
            return (_port_flag(argv, "http-port", default=8080),)
        case "serve-hostname":
            return (_port_flag(argv, "port", default=9376),)
        case _:
            return ()


def _port_flag(argv: Sequence[str], name: str, *, default: int) -> int:
    for index, word in enumerate(argv):
        flag, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or flag != name:
            continue
        text = value if equals else "".join(argv[index + 1 : index + 2])
        if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
            return int(text)
    return default
