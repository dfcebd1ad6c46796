"""Secrets of type kubernetes.io/service-account-token: filled with a token for the ServiceAccount that they name.

The token is asked for at the API server, bound to the Secret, so that it ends with it and no signing key is needed
here. Rejected: signing tokens in this process as kube-controller-manager does, which would need the API server's own
key.
"""

import base64
from typing import Any

import msgspec

from isthmus.kube.errors import Conflict, NotFound
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import SECRETS, SERVICE_ACCOUNTS
from isthmus.lab.controllers.objects.meta import Key, Object
from isthmus.lab.controllers.store import Store
from isthmus.lab.controllers.world import World

TYPE = "kubernetes.io/service-account-token"
NAME = "kubernetes.io/service-account.name"
UID = "kubernetes.io/service-account.uid"
LIFETIME = 10 * 365 * 86400
"""Seconds: tokens of this kind are meant not to expire."""


class Secret(Object, frozen=True, gc=False, kw_only=True):
    """core/v1 Secret."""

    type: str = ""
    data: dict[str, str] = msgspec.field(default_factory=dict)


class TokenSecrets:
    """One round per such Secret; `root_ca` is PEM text."""

    def __init__(self, world: World, *, root_ca: str) -> None:
        self._world = world
        self._root_ca = root_ca
        self.secrets = Store(world.client, SECRETS, Secret, field_selector=f"type={TYPE}")
        self.secrets.index(
            "account", lambda item: (f"{item.metadata.namespace}/{item.metadata.annotations.get(NAME)}",)
        )
        self.queue = KeyQueue("token-controller", self._round, workers=1)
        self.secrets.listen(self._changed)
        world.accounts.listen(self._account_changed)

    async def serve(self) -> None:
        """Works until cancelled."""
        await self.secrets.synced.wait()
        await self._world.accounts.synced.wait()
        await self.queue.serve()

    def _changed(self, before: Secret | None, after: Secret | None) -> None:
        if after is not None:
            self.queue.add(after.key)

    def _account_changed(self, before: Object | None, after: Object | None) -> None:
        item = after or before
        if item is not None:
            for secret in self.secrets.by("account", f"{item.metadata.namespace}/{item.metadata.name}"):
                self.queue.add(secret.key)

    async def _round(self, key: Key) -> float | None:
        secret = self.secrets.get(*key)
        if secret is None or secret.leaving or secret.type != TYPE:
            return None
        annotations = secret.metadata.annotations
        account = await self._account(key[0], annotations.get(NAME, ""))
        if account is None or annotations.get(UID, account.metadata.uid) != account.metadata.uid:
            # As upstream: the token of an account that is gone goes with it.
            try:
                await self._world.client.delete(SECRETS, key[1], namespace=key[0], uid=secret.metadata.uid)
            except (NotFound, Conflict):
                pass
            return None
        wanted = {"ca.crt": self._root_ca, "namespace": key[0]}
        data: dict[str, Any] = {field: base64.b64encode(text.encode()).decode() for field, text in wanted.items()}
        if all(secret.data.get(field) == text for field, text in data.items()) and secret.data.get("token"):
            if annotations.get(UID):
                return None
        if not secret.data.get("token"):
            token = await self._token(account, secret)
            data["token"] = base64.b64encode(token.encode()).decode()
        meta = {"annotations": {UID: account.metadata.uid}, "resourceVersion": secret.metadata.resourceVersion}
        stored = await self._world.client.patch(
            SECRETS, key[1], {"metadata": meta, "data": data}, type=Secret, namespace=key[0]
        )
        self.secrets.wrote(stored)
        return None

    async def _account(self, namespace: str, name: str) -> Object | None:
        known = self._world.accounts.get(namespace, name)
        if known is not None or not name:
            return known
        try:
            return await self._world.client.get(SERVICE_ACCOUNTS, name, type=Object, namespace=namespace)
        except NotFound:
            return None

    async def _token(self, account: Object, secret: Secret) -> str:
        meta = secret.metadata
        bound = {"apiVersion": "v1", "kind": "Secret", "name": meta.name, "uid": meta.uid}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": LIFETIME, "boundObjectRef": bound},
        }
        answer = await self._world.client.create(
            SERVICE_ACCOUNTS,
            request,
            type=dict,
            namespace=meta.namespace,
            name=account.metadata.name,
            subresource="token",
        )
        return str(answer["status"]["token"])
