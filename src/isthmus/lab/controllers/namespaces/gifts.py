"""What every namespace is given: the ServiceAccount `default` and the ConfigMap with the cluster's root certificate.

Both are made again when somebody deletes them, and the certificate is set right when somebody changes it.
"""

from isthmus.kube.errors import AlreadyExists, Forbidden, NotFound
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import CONFIG_MAPS, SERVICE_ACCOUNTS
from isthmus.lab.controllers.objects.meta import Key, Object
from isthmus.lab.controllers.world import ROOT_CA, World

DESCRIPTION = "kubernetes.io/description"
_WORDS = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


class Gifts:
    """One round per namespace; `root_ca` is PEM text, empty to leave the ConfigMap to somebody else."""

    def __init__(self, world: World, *, root_ca: str = "") -> None:
        self._world = world
        self._root_ca = root_ca
        self._right: dict[Key, str] = {}
        self.queue = KeyQueue("serviceaccount-controller", self._round, workers=2)
        for store in (world.namespaces, world.accounts, world.root_cas):
            store.listen(self._changed)

    async def serve(self) -> None:
        """Works until cancelled."""
        await self._world.namespaces.synced.wait()
        await self._world.accounts.synced.wait()
        if self._root_ca:
            await self._world.root_cas.synced.wait()
        await self.queue.serve()

    def _changed(self, before: Object | None, after: Object | None) -> None:
        item = after or before
        if item is not None:
            self.queue.add(("", item.metadata.namespace or item.metadata.name))

    async def _round(self, key: Key) -> float | None:
        name = key[1]
        namespace = self._world.namespaces.get("", name)
        if namespace is None or namespace.leaving:
            self._right.pop(key, None)
            return None
        client = self._world.client
        try:
            if self._world.accounts.get(name, "default") is None:
                account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
                await client.create(SERVICE_ACCOUNTS, account, type=dict, namespace=name)
        except (AlreadyExists, NotFound, Forbidden):
            pass  # somebody else made it, or the namespace is on its way out
        if self._root_ca:
            await self._publish(key, name)
        return None

    async def _publish(self, key: Key, namespace: str) -> None:
        client = self._world.client
        known = self._world.root_cas.get(namespace, ROOT_CA)
        if known is not None and self._right.get(key) == known.metadata.resourceVersion:
            return
        wanted = {"ca.crt": self._root_ca}
        meta = {"name": ROOT_CA, "annotations": {DESCRIPTION: _WORDS}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": wanted}
        try:
            if known is None:
                stored = await client.create(CONFIG_MAPS, body, type=dict, namespace=namespace)
            else:
                stored = await client.get(CONFIG_MAPS, ROOT_CA, type=dict, namespace=namespace)
                if stored.get("data") != wanted:
                    stored = await client.replace(CONFIG_MAPS, ROOT_CA, body, type=dict, namespace=namespace)
        except (AlreadyExists, NotFound, Forbidden):
            return
        self._right[key] = stored["metadata"]["resourceVersion"]
