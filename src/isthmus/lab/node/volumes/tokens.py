"""Service account tokens for pods: asked for by TokenRequest, and again when four fifths of their life are over.

As kubelets do: a token is bound to its pod, so it ends with it, and one that lives longer than a day is renewed after
a day. A token that cannot be renewed is used for as long as it is valid.
"""

import datetime
import time

import msgspec

from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError
from isthmus.kube.resources import SERVICE_ACCOUNTS
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.node.pods.volume import TokenSource
from isthmus.lab.node.volumes.projection import VolumeError

_DAY = 24 * 3600.0
_RETRY = 10.0


class _Answered(msgspec.Struct, frozen=True):
    token: str = ""
    expirationTimestamp: str = ""


class _TokenRequest(msgspec.Struct, frozen=True):
    status: _Answered = _Answered()


class _Held(msgspec.Struct, frozen=True):
    token: str
    renew_at: float
    expires_at: float


class PodTokens:
    """The tokens of one pod."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._held: dict[tuple[str, int], _Held] = {}

    def get(self, source: TokenSource) -> str:
        """Returns the token that `fetch` got; raises VolumeError."""
        held = self._held.get((source.audience, source.expirationSeconds))
        if held is None:
            raise VolumeError("failed to fetch token: not asked for yet")
        return held.token

    @property
    def renew_at(self) -> float | None:
        """When the next token has to be renewed, seconds since the epoch."""
        return min((held.renew_at for held in self._held.values()), default=None)

    async def fetch(self, pod: Pod, sources: tuple[TokenSource, ...]) -> None:
        """Gets tokens that are missing or old; raises VolumeError for one that there is no other for."""
        now = time.time()
        for source in sources:
            key = (source.audience, source.expirationSeconds)
            held = self._held.get(key)
            if held is not None and now < held.renew_at:
                continue
            try:
                self._held[key] = await self._request(pod, source, now=now)
            except KubeError as error:
                if held is None or now >= held.expires_at:
                    raise VolumeError(f"failed to fetch token: {error}") from error
                self._held[key] = msgspec.structs.replace(held, renew_at=now + _RETRY)

    async def _request(self, pod: Pod, source: TokenSource, *, now: float) -> _Held:
        meta = pod.metadata
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [source.audience] if source.audience else [],
                "expirationSeconds": source.expirationSeconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid},
            },
        }
        account = pod.spec.serviceAccountName or "default"
        path = SERVICE_ACCOUNTS.path(namespace=meta.namespace, name=account, subresource="token")
        answer = await self._client.raw("POST", path, body=msgspec.json.encode(body))
        try:
            status = msgspec.json.decode(answer, type=_TokenRequest).status
            expires_at = datetime.datetime.fromisoformat(status.expirationTimestamp).timestamp()
        except (msgspec.MsgspecError, ValueError) as error:
            raise VolumeError(f"failed to fetch token: {error}") from error
        if not status.token:
            raise VolumeError("failed to fetch token: the API server gave none")
        life = max(expires_at - now, 1.0)
        return _Held(token=status.token, renew_at=now + min(life * 0.8, _DAY), expires_at=expires_at)
