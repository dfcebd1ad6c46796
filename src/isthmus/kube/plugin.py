"""Running an exec credential plugin: one process, one JSON answer (KEP-541).

Invariants: the plugin has no terminal, a time limit and an output limit, and is killed with its children when it
passes them or when we are cancelled; its answer is checked before it is believed; nothing of what it prints on
standard output reaches a log. Rejected: a shell, which would make the arguments of a kubeconfig into code.
"""

import asyncio
import contextlib
import datetime
import os
import signal

import msgspec

from isthmus.kube.access import Access, Plugin
from isthmus.kube.errors import DECODE_ERRORS, CredentialError, clip

TIME_LIMIT = 60.0
"""Seconds: cloud plugins take one to ten, more when they have to open a session."""

MAX_OUTPUT = 1 << 20
"""Bytes of each of the plugin's outputs."""


class PluginAnswer(msgspec.Struct, frozen=True):
    """What a plugin gave: a bearer token, a client certificate with key (PEM), or both; `expires` is Unix time."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: float | None = None

    def __repr__(self) -> str:
        return f"PluginAnswer(expires={self.expires})"


class _Status(msgspec.Struct, rename="camel"):
    token: str | None = None
    expiration_timestamp: datetime.datetime | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _Status | None = None


def exec_info(access: Access, plugin: Plugin) -> bytes:
    """Returns the JSON for KUBERNETES_EXEC_INFO."""
    spec: dict[str, object] = {"interactive": False}
    if plugin.provide_cluster_info:
        cluster: dict[str, object] = {"server": access.server}
        if access.tls.server_name:
            cluster["tls-server-name"] = access.tls.server_name
        if not access.tls.verify:
            cluster["insecure-skip-tls-verify"] = True
        if access.tls.ca is not None:
            cluster["certificate-authority-data"] = access.tls.ca  # bytes are base64 in msgspec's JSON
        if access.proxy:
            cluster["proxy-url"] = access.proxy
        if plugin.cluster_config is not None:
            cluster["config"] = msgspec.Raw(plugin.cluster_config)
        spec["cluster"] = cluster
    return msgspec.json.encode({"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec})


def parse_answer(output: bytes, plugin: Plugin) -> PluginAnswer:
    """Returns what the plugin's standard output says. Raises CredentialError."""
    try:
        answer = msgspec.json.decode(output, type=_ExecCredential)
    except DECODE_ERRORS as error:
        # Not the output itself: it may hold the token.
        raise CredentialError(f"{plugin.origin}: the plugin did not print an ExecCredential: {error}") from error
    if answer.kind != "ExecCredential":
        raise CredentialError(f"{plugin.origin}: the plugin printed kind {clip(answer.kind)!r}, not ExecCredential")
    if answer.api_version != plugin.api_version:
        raise CredentialError(
            f"{plugin.origin}: the plugin answered in {clip(answer.api_version)!r}, configured is {plugin.api_version}"
        )
    status = answer.status
    if status is None:
        raise CredentialError(f"{plugin.origin}: the plugin's answer has no status")
    token = (status.token or "").strip()
    certificate, key = status.client_certificate_data or "", status.client_key_data or ""
    if bool(certificate) != bool(key):
        raise CredentialError(f"{plugin.origin}: the plugin gave only one of clientCertificateData and clientKeyData")
    if not token and not certificate:
        raise CredentialError(f"{plugin.origin}: the plugin gave neither a token nor a client certificate")
    if not token.isprintable() or not token.isascii():
        raise CredentialError(f"{plugin.origin}: the plugin's token holds characters that cannot be sent in a header")
    moment = status.expiration_timestamp
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return PluginAnswer(
        token=token,
        certificate=certificate.encode(),
        key=key.encode(),
        expires=None if moment is None else moment.timestamp(),
    )


async def run_plugin(access: Access, plugin: Plugin, *, time_limit: float = TIME_LIMIT) -> PluginAnswer:
    """Runs the plugin once. Raises CredentialError, whose message holds what it wrote on standard error."""
    environment = {**os.environ, **dict(plugin.env), "KUBERNETES_EXEC_INFO": exec_info(access, plugin).decode()}
    with contextlib.ExitStack() as stack:
        output, output_end = await _pipe(stack)
        complaint, complaint_end = await _pipe(stack)
        try:
            process = await asyncio.create_subprocess_exec(
                plugin.command,
                *plugin.args,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_end,
                stderr=complaint_end,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            # A directory of PATH that may not be read makes "not found" a "permission denied".
            absent = isinstance(error, FileNotFoundError | PermissionError)
            hint = f"; {plugin.install_hint}" if plugin.install_hint and absent else ""
            reason = getattr(error, "strerror", None) or error
            raise CredentialError(f"{plugin.origin}: cannot run {plugin.command!r}: {reason}{hint}") from error
        finally:
            os.close(output_end)
            os.close(complaint_end)
        done = False
        try:
            async with asyncio.timeout(time_limit):
                printed, complained = await asyncio.gather(
                    _read_bounded(output, plugin), _read_bounded(complaint, plugin)
                )
                code = await process.wait()
            done = True
        except TimeoutError as error:
            raise CredentialError(f"{plugin.origin}: {plugin.command!r} did not finish in {time_limit:g} s") from error
        finally:
            if not done:
                # Neither the plugin nor a child that holds its pipes stays. Waiting is safe: the group got SIGKILL.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    if code != 0:
        raise CredentialError(f"{plugin.origin}: {plugin.command!r} failed with exit code {code}: {clip(complained)}")
    return parse_answer(printed, plugin)


async def _pipe(stack: contextlib.ExitStack) -> tuple[asyncio.StreamReader, int]:
    """Returns a reader and the descriptor that a child writes to (the caller closes it); `stack` closes the reader.

    asyncio's own pipes cannot be closed by their user, and one that is left unread half way stays open for good.
    """
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
    except BaseException:
        os.close(writing)
        raise
    stack.callback(transport.close)
    return reader, writing


async def _read_bounded(stream: asyncio.StreamReader, plugin: Plugin) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await stream.read(65536):
        size += len(piece)
        if size > MAX_OUTPUT:
            raise CredentialError(f"{plugin.origin}: {plugin.command!r} printed more than {MAX_OUTPUT} bytes")
        pieces.append(piece)
    return b"".join(pieces)
