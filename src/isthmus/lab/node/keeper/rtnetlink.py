"""Links, addresses and routes through rtnetlink(7), as far as pods need them.

A request goes out and its acknowledgement is read before the next one: a pod needs a dozen, a tenth of a millisecond
in all. Rejected: `ip -batch` in three namespaces, ten milliseconds of CPU a pod; pyroute2, whose import alone would
make every fork of the keeper twice as dear.
"""

import errno
import os
import socket
import struct

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst, src, tos, table, protocol, scope, type, flags

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_IFF_UP = 1
_SCOPE_LINK, _SCOPE_GLOBAL = 253, 0
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 3, 18, 26, 28
_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_TABLE_MAIN, _PROTO_STATIC, _UNICAST = 254, 4, 1


class Routes:
    """A socket in the network namespace in which it was made; close it. Every method raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(10.0)
        self._sequence = 0

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def add_veth(self, name: str, *, peer: str, namespace: int) -> None:
        """Makes a pair: `name` here, `peer` in the network namespace behind the descriptor."""
        other = _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, peer) + _word(_IFLA_NET_NS_FD, namespace)
        info = _attribute(1, b"veth\0") + _attribute(2, _attribute(1, other))
        body = _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_LINKINFO, info)
        self._ask(_NEWLINK, _CREATE | _EXCL, body)

    def set_up(self, index: int, *, own_link_local: bool = False) -> None:
        """Sets a link up; with `own_link_local` the kernel gives it no IPv6 address by itself."""
        body = _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP)
        if own_link_local:
            mode = _attribute(_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
            self._ask(
                _NEWLINK, 0, _LINK.pack(0, 0, index, 0, 0) + _nested(_IFLA_AF_SPEC, _nested(socket.AF_INET6, mode))
            )
        self._ask(_NEWLINK, 0, body)

    def delete_link(self, name: str) -> None:
        """Removes a link; one that does not exist is no error."""
        try:
            self._ask(_DELLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Gives a link an address, at once usable (without duplicate address detection)."""
        family, packed = _packed(address)
        scope = _SCOPE_LINK if address.startswith("fe80:") else _SCOPE_GLOBAL
        flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
        body = _ADDRESS.pack(family, prefix, flags, scope, index)
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        self._ask(_NEWADDR, _CREATE | _REPLACE, body)

    def add_route(
        self, index: int, destination: str, prefix: int, *, gateway: str = "", source: str = "", on_link: bool = False
    ) -> None:
        """Adds or replaces a route; `destination` with prefix 0 is the default route of its family."""
        family, packed = _packed(destination)
        scope = _SCOPE_LINK if on_link and family == socket.AF_INET else _SCOPE_GLOBAL
        body = _ROUTE.pack(family, prefix, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, _UNICAST, 0)
        if prefix:
            body += _attribute(_RTA_DST, packed)
        if gateway:
            body += _attribute(_RTA_GATEWAY, _packed(gateway)[1])
        if source:
            body += _attribute(_RTA_PREFSRC, _packed(source)[1])
        self._ask(_NEWROUTE, _CREATE | _REPLACE, body + _word(_RTA_OIF, index))

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, flags | _REQUEST | _ACK, self._sequence, 0) + body)
        while True:
            answer = self._socket.recv(65536)
            _length, type_, _flags, sequence, _port = _HEADER.unpack_from(answer)
            if sequence != self._sequence or type_ != 2:  # NLMSG_ERROR, which an acknowledgement is too
                continue
            (code,) = struct.unpack_from("=i", answer, _HEADER.size)
            if code:
                raise OSError(-code, os.strerror(-code))
            return


def _packed(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def _attribute(kind: int, payload: bytes) -> bytes:
    data = struct.pack("=HH", 4 + len(payload), kind) + payload
    return data + bytes(-len(data) % 4)


def _nested(kind: int, payload: bytes) -> bytes:
    return _attribute(kind | 0x8000, payload)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _word(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))
