"""Which images exist, and what each of them runs.

Invariants: nothing is pulled, so registry, tag and digest of a reference are not looked at; an unknown image is an
error that names those which exist, as a mistyped name must not become a pod that runs something else; a catalog never
changes: a node that reads its file anew has another one. Rejected: unpacking real images, which needs a registry,
disk and root.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image, in Dockerfile terms: what its entrypoint and command are, and how they are run."""

    name: str
    """The last part of its repository (`nginx`), or more of it (`cilium/starwars`)."""
    aliases: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    """UID or UID:GID; empty is root."""
    files: tuple[tuple[str, str], ...] = ()
    """(source, target): files and directories of this machine at paths in the container, read-only. A source without
    a slash is a program of the lab."""
    ports: tuple[int, ...] = ()
    """TCP ports that its programs listen on unless told otherwise (EXPOSE)."""


PATH = "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin"
"""In a pod /bin holds busybox's applets and the lab's programs; the machine's own programs come after them."""

AGNHOST = "/agnhost"

# The grammar of github.com/distribution/reference, without its limits on length.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{{0,127}})?"
    r"(?:@[a-zA-Z][a-zA-Z0-9]*(?:[-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_MAX_REFERENCE = 1024


class UnknownImage(Exception):
    """No such image; the message says which ones exist."""

    reason = "ErrImagePull"
    """What a container that waits for it shows."""


class InvalidImageName(UnknownImage):
    """No image can be called that."""

    reason = "InvalidImageName"


class Catalog(msgspec.Struct, frozen=True):
    """The images that exist, by every name they are known by."""

    images: dict[str, Image]

    @classmethod
    def of(cls, images: Iterable[Image]) -> "Catalog":
        """Returns the catalog of these images; of two that share a name the later one has it."""
        known: dict[str, Image] = {}
        for image in images:
            for name in (image.name, *image.aliases):
                known[name] = image
        return cls(known)

    @property
    def names(self) -> list[str]:
        """The names of the images, without their aliases, sorted."""
        return sorted({image.name for image in self.images.values()})

    def find(self, reference: str) -> Image:
        """Returns the image for a reference such as `docker.io/library/busybox:1.36`; raises UnknownImage."""
        repository = repository_of(reference)
        # `quay.io/cilium/json-mock` is known as that, as cilium/json-mock, and as json-mock.
        while repository:
            if image := self.images.get(repository):
                return image
            repository = repository.partition("/")[2]
        raise UnknownImage(
            f'failed to pull and unpack image "{reference[:_MAX_REFERENCE]}": not among the images of the lab, '
            f"which are {', '.join(self.names)}"
        )


def repository_of(reference: str) -> str:
    """Returns a reference without tag and digest; raises InvalidImageName."""
    if len(reference) > _MAX_REFERENCE or not _REFERENCE.fullmatch(reference):
        raise InvalidImageName(
            f'Failed to apply default image tag "{reference[:_MAX_REFERENCE]}": couldn\'t parse image name '
            f'"{reference[:_MAX_REFERENCE]}": invalid reference format'
        )
    repository = reference.partition("@")[0]
    head, slash, last = repository.rpartition("/")
    return head + slash + last.partition(":")[0]


def full_argv(image: Image, *, command: Sequence[str], args: Sequence[str]) -> tuple[str, ...]:
    """Returns what runs when a container says `command` and `args` (both already expanded), as the API defines it."""
    if command:
        return (*command, *args)
    return (*image.entrypoint, *(args or image.command))


def image_id(reference: str) -> str:
    """Returns what a container status shows as imageID: there is one build of each image, so the name is enough."""
    try:
        return f"lab/{repository_of(reference).rpartition('/')[2]}"
    except InvalidImageName:
        return ""


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
