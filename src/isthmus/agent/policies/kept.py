"""Versions of policy objects as they outlive the agent: one object packed, and the file of those that are kept.

Pure. A *pack* is an object as it was written, less what no reading depends on: a version that is kept across a restart
is read anew, by today's reader and against today's context, and what was compiled of it is nobody's input. Invariants:
whatever bytes are given, `decode` returns whole packs of this node or raises Spoiled, with work bounded by MOST_BYTES;
what `encode` returns is the same for the same packs, whatever their order, so that nothing is written twice; a digest
tells a flipped bit from what somebody wrote (it is no proof of who did).

Packs are compressed with a dictionary of the words that all policies have: some 150 bytes for an ordinary one, of which
an agent holds as many as there are policies. Rejected: holding the objects as they came, several kilobytes each.
"""

import zlib
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from isthmus.policy.fields import show
from isthmus.policy.metadata import SCOPE_ANNOTATION
from isthmus.policy.parsing import identify
from isthmus.policy.rules import ObjectRef

MOST_BYTES = 4 << 20
"""Of the file: some objects of the largest size that an API server takes (1.5 MiB), or thousands of ordinary ones."""

FORMAT = "isthmus.dev/kept-policies"
VERSION = 1

_METADATA = ("name", "namespace", "uid", "generation", "resourceVersion")
_WORDS = (
    b'"spec":{"tier":"Admin","priority":100,"subject":{"namespaces":{"action":"Accept","Deny""toPorts":[{"ports":[{'
    b'"port":"80","protocol":"TCP"}]}]"fromEntities":["cluster"]"egress":[{"to":[{"toEndpoints":[{"matchLabels":{"k8s:'
    b'io.kubernetes.pod.namespace":"io.cilium.k8s.policy.cluster":"matchExpressions":[{"key":"operator":"In","values":['
    b'{"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicy"{"apiVersion":"cilium.io/v2",'
    b'"kind":"CiliumClusterwideNetworkPolicy"{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy"'
    b'{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"","namespace":"default","uid":"",'
    b'"generation":1,"resourceVersion":"1","annotations":{"isthmus.dev/policy-scope":"clusterset"}},"spec":{'
    b'"endpointSelector":{"matchLabels":{"podSelector":{"matchLabels":{"app.kubernetes.io/name":"},"policyTypes":['
    b'"Ingress","Egress"],"ingress":[{"fromEndpoints":[{"from":[{"namespaceSelector":{"matchLabels":{'
    b'"kubernetes.io/metadata.name":"},"podSelector":{"matchLabels":{"app":"ipBlock":{"cidr":"10.0.0.0/8"}}]}],'
    b'"ports":[{"port":8080,"protocol":"TCP"}]}]}}'
)
"""The dictionary; packs never leave the process, so it may change from release to release."""

Place = tuple[str, str, str]
"""Kind, namespace ("" where the kind has none) and name."""


class Spoiled(Exception):
    """The bytes are no file of this node's kept versions; the message says why."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The file. `digest` is that of `objects` as they are written."""

    format: str
    version: int
    cluster: str
    node: str
    digest: str
    objects: msgspec.Raw


class _Head(msgspec.Struct):
    """What is looked at first: other versions may have other fields."""

    format: str
    version: int


class Encoded(msgspec.Struct, frozen=True):
    """The bytes of a file, and the objects for which there was no room in it."""

    content: bytes
    left_out: tuple[ObjectRef, ...] = ()


def pack(obj: Mapping[str, object], *, api_version: str, kind: str) -> bytes:
    """Returns the pack of an object that has been read, b"" for what JSON cannot say.

    `api_version` and `kind` are those of the list it came from, whose items do not say it themselves.
    """
    metadata = obj.get("metadata")
    head: dict[str, object] = {}
    if isinstance(metadata, Mapping):
        head = {key: metadata[key] for key in _METADATA if key in metadata}
        annotations = metadata.get("annotations")
        if isinstance(annotations, Mapping) and SCOPE_ANNOTATION in annotations:
            head["annotations"] = {SCOPE_ANNOTATION: annotations[SCOPE_ANNOTATION]}
    rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata", "status")}
    said = {"apiVersion": obj.get("apiVersion") or api_version, "kind": obj.get("kind") or kind, "metadata": head}
    try:
        return _pressed(msgspec.json.encode(said | rest))
    except (ValueError, OverflowError, TypeError, RecursionError):
        return b""


def unpack(packed: bytes) -> dict[str, Any]:
    """Returns the object of a pack."""
    return msgspec.json.decode(_released(packed), type=dict[str, Any])


def encode(packs: Mapping[ObjectRef, bytes], *, cluster: str, node: str) -> Encoded:
    """Returns the file of `packs`, MOST_BYTES at most."""
    room = MOST_BYTES - 1024  # for what is around the objects, of which the names are the longest (253 at most each)
    objects: list[bytes] = []
    left_out: list[ObjectRef] = []
    for ref, packed in sorted(packs.items(), key=lambda item: item[0].place):
        text = _released(packed) if packed else b""
        if not text or len(text) + 2 > room:
            left_out.append(ref)
            continue
        room -= len(text) + 2
        objects.append(text)
    content = b"[" + b",\n".join(objects) + b"]"
    file = _File(FORMAT, VERSION, cluster, node, _digest(content), msgspec.Raw(content))
    return Encoded(msgspec.json.encode(file) + b"\n", tuple(left_out))


def decode(content: bytes, *, cluster: str, node: str) -> dict[ObjectRef, bytes]:
    """Returns the packs of a file by object. Raises Spoiled."""
    if len(content) > MOST_BYTES:
        raise Spoiled(f"it has more than {MOST_BYTES} bytes")
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.format != FORMAT:
            raise Spoiled(f"its format is {show(head.format)}, and not {show(FORMAT)}")
        if head.version != VERSION:
            raise Spoiled(f"its version is {head.version}; this program reads version {VERSION}")
        file = msgspec.json.decode(content, type=_File)
        texts = msgspec.json.decode(file.objects, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Spoiled(f"it cannot be read: {error}") from error
    for word, said, wanted in (("cluster", file.cluster, cluster), ("node", file.node, node)):
        if said != wanted:
            raise Spoiled(f"it is of {word} {show(said)}, and not of {show(wanted)}")
    if file.digest != _digest(bytes(file.objects)):
        raise Spoiled("its digest is not that of its objects")
    return _by_object(texts)


def _by_object(texts: Iterable[msgspec.Raw]) -> dict[ObjectRef, bytes]:
    found: dict[ObjectRef, bytes] = {}
    places: set[Place] = set()
    for number, text in enumerate(texts):
        try:
            ref = identify(msgspec.json.decode(text, type=dict[str, Any]))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Spoiled(f"objects[{number}] cannot be read: {error}") from error
        if ref is None or not ref.uid:
            raise Spoiled(f"objects[{number}] is no policy with a name and a UID")
        if ref.place in places:
            raise Spoiled(f"it has {show(str(ref))} twice")
        places.add(ref.place)
        found[ref] = _pressed(bytes(text))
    return found


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _pressed(content: bytes) -> bytes:
    press = zlib.compressobj(6, zlib.DEFLATED, -12, 5, zlib.Z_DEFAULT_STRATEGY, _WORDS)
    return press.compress(content) + press.flush()


def _released(packed: bytes) -> bytes:
    release = zlib.decompressobj(-12, _WORDS)
    return release.decompress(packed) + release.flush()
