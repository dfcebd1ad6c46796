"""Makes conntrack forget connections that lead astray.

A UDP "connection" lasts as long as its client sends, so it outlives the backend that it was given, and the lack of one.
One of TCP or SCTP ends with its backend, but for two kinds. One that was never answered: the client sends its first
packet again and again, conntrack takes each to where it took the first, and the next connection from the same port as
well, for two minutes. And one that the backend broke off, as the kernel does for a process that is killed: for ten
seconds the next connection from that port is led there as well. Forgotten, the next packet is led to a backend that is
there.

What must stay true: only connections that were opened to a frontend we were asked about are touched, and of those only
the ones whose answers come from nobody who is right; nothing here grows with the number of connections but time.

Rejected: the conntrack program, a process for every backend; and forgetting every connection to a frontend, which would
give backends that are well each other's clients.
"""

import errno
from collections.abc import Iterator, Mapping

from isthmus.kernel.errors import KernelError, about
from isthmus.kernel.sockets import NetfilterSocket
from isthmus.model.endpoint import family_of
from isthmus.model.flow import Protocol
from isthmus.model.service import Target
from isthmus.wire import conntrack
from isthmus.wire.conntrack import Entry

FEW = 8  # frontends of a protocol that are asked for one by one; of more, all its connections are looked through once
PER_SEND = 256  # entries to forget with one send()

Stale = Mapping[tuple[str, int, int], frozenset[Target]]
"""Frontends (address, protocol, port), and the targets that connections to them may have."""


def forget_stale(stale: Stale) -> int:
    """Makes conntrack forget connections to the frontends in `stale` that no target of theirs answers.

    Of protocols other than UDP, only connections that nobody has answered or that were broken off. Returns how many. A
    connection that was never translated counts as astray as soon as its frontend has targets. Works in the network
    namespace of the calling thread, and blocks. Raises KernelError.
    """
    with NetfilterSocket() as sock:
        return sum(
            _forget(sock, wrong[first : first + PER_SEND])
            for protocol in sorted({protocol for _, protocol, _ in stale})
            for wrong in [[entry for entry in _candidates(sock, stale, protocol) if _astray(entry, stale, protocol)]]
            for first in range(0, len(wrong), PER_SEND)
        )


def _astray(entry: Entry, stale: Stale, protocol: int) -> bool:
    address, port = entry.destination
    targets = stale.get((address, protocol, port))
    if targets is None or (entry.answers == entry.destination and not targets):
        return False
    return Target(*entry.answers) not in targets


def _candidates(sock: NetfilterSocket, stale: Stale, protocol: int) -> Iterator[Entry]:
    mine = [(address, port) for address, of, port in stale if of == protocol]
    if len(mine) <= FEW:
        for destination in mine:
            yield from _dump(sock, family_of(destination[0]), protocol, destination)
    else:
        for version in sorted({family_of(address) for address, _ in mine}):
            yield from _dump(sock, version, protocol, None)


def _dump(sock: NetfilterSocket, version: int, protocol: int, destination: tuple[str, int] | None) -> Iterator[Entry]:
    with about("conntrack entries"):
        try:
            yield from _entries(sock, version, protocol, destination, narrow=True)
        except KernelError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            yield from _entries(sock, version, protocol, None, narrow=False)


def _entries(
    sock: NetfilterSocket, version: int, protocol: int, destination: tuple[str, int] | None, *, narrow: bool
) -> Iterator[Entry]:
    sequence = sock.reserve(1)
    request = conntrack.encode_dump(version, protocol, sequence=sequence, destination=destination, narrow=narrow)
    for message in sock.dump(request, sequence=sequence):
        entry = conntrack.decode_entry(message, protocol=protocol, live=protocol == Protocol.UDP)
        if entry is not None:
            yield entry


def _forget(sock: NetfilterSocket, entries: list[Entry]) -> int:
    first = sock.reserve(len(entries))
    requests = [conntrack.encode_forget(entry, sequence=(first + n) % (1 << 32)) for n, entry in enumerate(entries)]
    refused = sock.transact(b"".join(requests), last=(first + len(entries) - 1) % (1 << 32))
    failed = [answer for answer in refused if answer.errno != errno.ENOENT]  # it ended by itself
    if failed:
        raise KernelError(f"conntrack: {failed[0].text or 'an entry cannot be forgotten'}", errno=failed[0].errno)
    return len(entries) - len(refused)
