"""The images that every lab has: those that examples and tests of the field are written with.

Invariant: an image is here only if what it runs does what the original does, as far as a pod can tell; entrypoint,
command, user and default ports are the original's. Rejected: an image that answers to many names and just sleeps,
which turns a missing program into a riddle.
"""

from isthmus.lab.images.catalog import AGNHOST, Catalog, Image

# curlimages/curl's entrypoint: arguments that are no program are curl's.
_CURL_ENTRYPOINT = (
    'case "${1-}" in -*|*://*) set -- curl "$@";; esac; command -v "$1" >/dev/null || set -- curl "$@"; exec "$@"'
)
_SLEEP = ("/bin/sleep", "2147483647")

BUILTIN = (
    Image(name="agnhost", entrypoint=(AGNHOST,), command=("pause",), files=(("agnhost", AGNHOST),)),
    Image(
        name="busybox",
        # Images whose shell and small tools are all that is wanted of them.
        aliases=("alpine", "netshoot", "jessie-dnsutils", "alpine-curl"),
        command=("sh",),
    ),
    Image(name="debian", aliases=("ubuntu",), command=("bash",)),
    Image(
        name="coredns",
        entrypoint=("/coredns",),
        files=(("coredns", "/coredns"),),
    ),
    Image(
        name="curl",
        aliases=("curlimages/curl",),
        entrypoint=("/bin/sh", "-c", _CURL_ENTRYPOINT, "curl"),
        command=("curl",),
    ),
    Image(name="tutum/curl", aliases=("radial/busyboxplus",), command=("sh",)),
    Image(name="http-echo", entrypoint=("/http-echo",), files=(("http-echo", "/http-echo"),), ports=(5678,)),
    Image(name="json-mock", entrypoint=("/bin/json-mock",), ports=(80,)),
    Image(name="nginx", command=("nginx", "-g", "daemon off;"), ports=(80,)),
    Image(name="pause", entrypoint=_SLEEP),
    Image(name="starwars", entrypoint=("/bin/starwars",), ports=(80,)),
    Image(name="whoami", entrypoint=("/whoami",), files=(("whoami", "/whoami"),), ports=(80,)),
)

CATALOG = Catalog.of(BUILTIN)
"""What a lab without a file of images has."""
