"""Connecting clusters and parting them.

A connection is two halves: one cluster gives another an account that may only read, and the other keeps the token with
the way to the API server as an entry among its peers. Invariants: everything that can be refused is refused before
anything is written; each half is made as a whole or told as not made, and doing it again completes what is left;
nothing is undone in silence. Rejected: one account for all peers, which could not be taken from one of them alone.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from isthmus.kube.errors import AlreadyExists, KubeError, NotFound
from isthmus.kube.resources import ENDPOINT_SLICES, NODES, SECRETS
from isthmus.kube.schema import Bare, EndpointSlice, Node, Secret
from isthmus.mesh.joining import objects
from isthmus.mesh.joining.checks import overlaps, unfit_newcomer, unfit_pair
from isthmus.mesh.joining.members import JoiningError, Member, Tell
from isthmus.mesh.membership import NAMESPACE, Configuration, peer_entry, read_peers

TOKEN_LIMIT = 30.0
"""Seconds until the token controller must have filled a Secret."""

_PAUSE = 0.05
"""Seconds between two looks; a watch for one object that comes in an instant costs more."""

_MAX_PAUSE = 1.0

_T = TypeVar("_T")


_Failures = dict[tuple[str, str], JoiningError | KubeError]
"""By (reader, read)."""


class Party(msgspec.Struct, frozen=True):
    """A cluster that takes part: `endpoint` is the API server as others reach it ("": to be found out)."""

    member: Member
    endpoint: str = ""


class _Side(msgspec.Struct, frozen=True):
    party: Party
    configuration: Configuration

    @property
    def name(self) -> str:
        return self.configuration.cluster.name


class Outcome(msgspec.Struct, frozen=True):
    """Names of clusters in the order they were given, and of the halves that are made: (reader, read)."""

    names: tuple[str, ...]
    halves: tuple[tuple[str, str], ...]


async def connect(source: Party, others: Sequence[Party], *, mode: str, parallel: int, tell: Tell) -> Outcome:
    """Connects clusters; `mode` is unicast (only `source` reads), bidirectional, or mesh (all read each other).

    Raises JoiningError: before anything is written, or with what was made and what was not.
    """
    sides = [await _side(party, tell=tell) for party in (source, *others)]
    halves = _halves(sides, mode)
    await _check(sides, halves, tell=tell)
    room = asyncio.Semaphore(max(1, parallel))

    async def perform(reader: _Side, read: _Side) -> None:
        async with room:
            await join(reader.party.member, reader.configuration, read.party, read.configuration, tell=tell)

    failures = await _all_of(halves, perform)
    made = [(a.name, b.name) for a, b in halves if (a.name, b.name) not in failures]
    if failures:
        raise JoiningError(_left(made, failures, "connected to", repeat="connect"))
    return Outcome(tuple(side.name for side in sides), tuple(made))


async def disconnect(source: Party, others: Sequence[Party], *, mode: str, tell: Tell) -> Outcome:
    """Parts clusters; arguments as for `connect`. What is not connected is no error. Raises JoiningError."""
    sides = [await _named(party) for party in (source, *others)]
    halves = _halves(sides, mode)

    async def perform(reader: _Side, read: _Side) -> None:
        await part(reader.party.member, reader.name, read.party.member, read.name, tell=tell)

    failures = await _all_of(halves, perform)
    made = [(a.name, b.name) for a, b in halves if (a.name, b.name) not in failures]
    if failures:
        raise JoiningError(_left(made, failures, "disconnected from", repeat="disconnect"))
    return Outcome(tuple(side.name for side in sides), tuple(made))


async def join(
    reader: Member, reading: Configuration, read: Party, configuration: Configuration, *, tell: Tell
) -> None:
    """Makes one half: `reader` (which is `reading` in the mesh) reads `read`. Raises JoiningError."""
    name = configuration.cluster.name
    member = read.member
    tell(f"🔑 Extracting secrets from cluster {name}...")
    try:
        await member.apply([objects.remote_role(), *objects.remote_account(reading.cluster.name)])
        token, ca = await _token(member, reading.cluster.name)
        server, checked_by, server_name = await _way(read, ca)
    except KubeError as error:
        raise member.failed(error) from error
    tell(f"ℹ️  Found API server of cluster {name}: {server}")
    entry = peer_entry(configuration.cluster, server=server, token=token, ca=checked_by, server_name=server_name)
    tell(f"ℹ️  Configuring Isthmus in cluster {reading.cluster.name} to connect to cluster {name}")
    try:
        if (await reader.peers()).get(name) != entry:
            await reader.write_peer(name, entry)
    except KubeError as error:
        raise reader.failed(error) from error


async def part(reader: Member, reading: str, read: Member | None, name: str, *, tell: Tell) -> None:
    """Takes one half away: cluster `reading` stops reading cluster `name`. Raises JoiningError.

    `read` None is a cluster that is no more.
    """
    tell(f"ℹ️  Configuring Isthmus in cluster {reading} to disconnect from cluster {name}")
    try:
        await reader.write_peer(name, None)
    except KubeError as error:
        raise reader.failed(error) from error
    if read is not None:
        try:
            await read.revoke(reading)
        except KubeError as error:
            raise read.failed(error) from error


async def forget(member: Member, name: str, *, tell: Tell) -> None:
    """Takes away what a cluster has of another one that is gone: its entry, its account. Raises JoiningError."""
    try:
        configuration = await member.configuration()
        reading = configuration.cluster.name if configuration is not None else member.context
        if name not in await member.peers():
            tell(f"⚠️  Cluster {reading} knows no cluster {name}: there is no entry to take away")
        await part(member, reading, None, name, tell=tell)
        await member.revoke(name)
    except KubeError as error:
        raise member.failed(error) from error


def endpoint_url(text: str) -> str:
    """Returns the URL of an API server given as URL or host:port. Raises JoiningError."""
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise JoiningError(f"{text!r} is not the URL or host:port of an API server")
    return url.rstrip("/")


async def _side(party: Party, *, tell: Tell) -> _Side:
    member = party.member
    tell(f"✨ Extracting access information of cluster {member.context}...")
    try:
        configuration, _service = await member.enabled()
    except KubeError as error:
        raise member.failed(error) from error
    return _Side(party, configuration)


async def _named(party: Party) -> _Side:
    try:
        configuration = await party.member.configuration()
    except KubeError as error:
        raise party.member.failed(error) from error
    if configuration is None:
        raise JoiningError(f"context {party.member.context} does not say which cluster of a mesh it is")
    return _Side(party, configuration)


def _halves(sides: Sequence[_Side], mode: str) -> list[tuple[_Side, _Side]]:
    source, others = sides[0], sides[1:]
    if mode == "mesh":
        return [(a, b) for a in sides for b in sides if a is not b]
    halves = [(source, other) for other in others]
    return halves if mode == "unicast" else [half for pair in halves for half in (pair, pair[::-1])]


async def _check(sides: Sequence[_Side], halves: Sequence[tuple[_Side, _Side]], *, tell: Tell) -> None:
    """Raises JoiningError for clusters that cannot be joined."""
    for i, one in enumerate(sides):
        for other in sides[i + 1 :]:
            if reason := unfit_pair(one.configuration, other.configuration):
                raise JoiningError(reason)
    readers = list({id(reader): reader for reader, _read in halves}.values())
    known = await asyncio.gather(*(_of(side, side.party.member.peers()) for side in readers))
    nodes = await asyncio.gather(*(_of(side, side.party.member.client.list_all(NODES, type=Node)) for side in sides))
    for reader, entries in zip(readers, known, strict=True):
        membership = read_peers(entries, own=reader.name)
        for _reader, read in (half for half in halves if half[0] is reader):
            if reason := unfit_newcomer(reader.configuration, membership, read.configuration):
                raise JoiningError(reason)
    for i, one in enumerate(sides):
        for j in range(i + 1, len(sides)):
            for text in overlaps(nodes[i], nodes[j]):
                tell(f"⚠️  Clusters {one.name} and {sides[j].name}: {text}")


async def _of(side: _Side, asked: Awaitable[_T]) -> _T:
    """Returns what a cluster answers. Raises JoiningError with its name."""
    try:
        return await asked
    except KubeError as error:
        raise side.party.member.failed(error) from error


async def _token(member: Member, cluster: str) -> tuple[str, bytes]:
    """Returns a token of another cluster's account, and the authority of this API server. Raises JoiningError."""
    wanted = objects.remote_token(cluster)
    name = wanted["metadata"]["name"]
    deadline = asyncio.get_running_loop().time() + TOKEN_LIMIT
    pause = _PAUSE
    while True:
        try:
            found = await member.client.get(SECRETS, name, type=Secret, namespace=NAMESPACE)
            token = found.data.get("token", b"")
            if token and found.data.get("ca.crt"):
                return token.decode("ascii"), found.data["ca.crt"]
        except NotFound:
            # Also if it goes meanwhile: a token of an account of this name that was there before is taken away.
            try:
                await member.client.create(SECRETS, wanted, type=Bare, namespace=NAMESPACE)
            except AlreadyExists:
                pass
        except UnicodeDecodeError:
            raise JoiningError(f"context {member.context}: Secret {NAMESPACE}/{name}: token is no text") from None
        if asyncio.get_running_loop().time() > deadline:
            raise JoiningError(
                f"context {member.context}: Secret {NAMESPACE}/{name} got no token in {TOKEN_LIMIT:.0f} s; "
                "the token controller of kube-controller-manager fills it"
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _MAX_PAUSE)


async def _way(party: Party, ca: bytes) -> tuple[str, bytes | None, str | None]:
    """Returns URL, authority (PEM) and perhaps name of the API server as another cluster's tracker reaches it."""
    if party.endpoint:
        return endpoint_url(party.endpoint), ca, None
    access = party.member.client.access
    if not _loopback(access.server):
        # What lets people in lets a tracker in: in front of the API server may be something with other certificates.
        return access.server, access.tls.ca if access.tls.verify else ca, access.tls.server_name
    found = await party.member.client.get(ENDPOINT_SLICES, "kubernetes", type=EndpointSlice, namespace="default")
    addresses = [address for endpoint in found.endpoints or () for address in endpoint.addresses[:1]]
    ports = [port.port for port in found.ports or () if port.port and port.name in ("https", "", None)]
    if not addresses or not ports:
        raise JoiningError(
            f"context {party.member.context}: {access.server} means nothing elsewhere, and EndpointSlice "
            "default/kubernetes has no address; say --source-endpoint or --destination-endpoint"
        )
    host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    return f"https://{host}:{ports[0]}", ca, None


def _loopback(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _all_of(
    halves: Sequence[tuple[_Side, _Side]], perform: Callable[[_Side, _Side], Awaitable[None]]
) -> _Failures:
    """Performs all halves, also when one fails; returns the failures."""
    results = await asyncio.gather(*(perform(*half) for half in halves), return_exceptions=True)
    failures: _Failures = {}
    for (reader, read), result in zip(halves, results, strict=True):
        if isinstance(result, JoiningError | KubeError):
            failures[reader.name, read.name] = result
        elif isinstance(result, BaseException):
            raise result
    return failures


def _left(
    made: Sequence[tuple[str, str]],
    failures: _Failures,
    what: str,
    *,
    repeat: str,
) -> str:
    lines = [f"cluster {reader} is not {what} {read}: {error}" for (reader, read), error in failures.items()]
    lines += [f"cluster {reader} is {what} {read}, and stays so" for reader, read in made]
    lines.append(f"when that is mended, repeat the same 'isthmus clustermesh {repeat}': it does what is left")
    return "\n".join(lines)
