"""What admission adds to pods before their rules are checked: identity, priority, tolerations.

These are the plugins of the real server that users notice: ServiceAccount, Priority, DefaultTolerationSeconds and
DefaultIngressClass. They run inside the transaction that stores the object, so what they looked at cannot have
changed meanwhile. Webhooks were left out: nothing in a lab registers one.
"""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes.calls import Source
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.storage.state import Transaction, decode

DEFAULT_ACCOUNT = "default"
ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607
ROOT_CA = "kube-root-ca.crt"
_VOLUME = "kube-api-access-"
_MIRROR = "kubernetes.io/config.mirror"
_TOLERATED = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_TOLERATION_SECONDS = 300
_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
_CLASS = "kubernetes.io/ingress.class"


def tolerate(spec: Json) -> None:
    """Lets a pod stay for five minutes on a node that is not ready or not reachable, unless it says otherwise."""
    held = spec.get("tolerations", [])
    for key in _TOLERATED:
        if not any(item.get("key", "") in ("", key) and item.get("effect", "") in ("", "NoExecute") for item in held):
            toleration = {"key": key, "operator": "Exists", "effect": "NoExecute"}
            held = [*held, {**toleration, "tolerationSeconds": _TOLERATION_SECONDS}]
    if held:
        spec["tolerations"] = held


def prioritise(value: Json, transaction: Transaction) -> None:
    """Sets priority and preemption policy from the priority class; raises 403."""
    spec, name = value["spec"], value["metadata"]["name"]
    classes = transaction.registry.get("priorityclasses", "scheduling.k8s.io")
    asked = spec.get("priorityClassName", "")
    found: Json | None = None
    if asked:
        stored = transaction.get(classes, namespace="", name=asked)
        if stored is None:
            raise errors.denied("pods", name, f"no PriorityClass with name {asked} was found")
        found = decode(classes, stored)
    else:
        held = [decode(classes, stored) for stored in transaction.all(classes)]
        found = min((item for item in held if item.get("globalDefault")), key=lambda item: item["value"], default=None)
        if found is not None:
            spec["priorityClassName"] = found["metadata"]["name"]
    number = found["value"] if found is not None else 0
    policy = found.get("preemptionPolicy", "") if found is not None else "PreemptLowerPriority"
    if spec.get("priority", number) != number:
        text = f"the integer value of priority ({spec['priority']}) must not be provided in pod spec"
        raise errors.denied(
            "pods", name, f"{text}; priority admission controller computed {number} from the given PriorityClass name"
        )
    if found is not None and spec.get("preemptionPolicy", policy) != policy:
        text = f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec"
        raise errors.denied(
            "pods", name, f"{text}; priority admission controller computed {policy} from the given PriorityClass name"
        )
    spec["priority"] = number
    spec.setdefault("preemptionPolicy", policy)


def identify(value: Json, transaction: Transaction, source: Source) -> None:
    """Checks that the pod's service account exists, and gives its containers a token; raises 403."""
    spec, metadata = value["spec"], value["metadata"]
    if _MIRROR in metadata.get("annotations", {}):
        return
    namespace, name = metadata["namespace"], spec["serviceAccountName"]
    accounts = transaction.registry.get("serviceaccounts")
    stored = transaction.get(accounts, namespace=namespace, name=name)
    if stored is None:
        text = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise errors.denied("pods", metadata["name"], text)
    account = decode(accounts, stored)
    if spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True)):
        _mount(spec, source)
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]


def _mount(spec: Json, source: Source) -> None:
    held = [volume["name"] for volume in spec.get("volumes", ()) if volume.get("name", "").startswith(_VOLUME)]
    name = held[0] if held else source.name(_VOLUME)
    needed = False
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        mounts = container.setdefault("volumeMounts", [])
        if not any(mount.get("mountPath") == ACCOUNT_PATH for mount in mounts):
            mounts.append({"name": name, "readOnly": True, "mountPath": ACCOUNT_PATH})
            needed = True
    if needed and not held:
        spec.setdefault("volumes", []).append({"name": name, "projected": _token_volume()})


def _token_volume() -> Json:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
        "defaultMode": 0o644,
    }


def classify(value: Json, transaction: Transaction) -> None:
    """Gives an Ingress that names no class the one that is marked as the default."""
    spec = value.setdefault("spec", {})
    if "ingressClassName" in spec or _CLASS in value["metadata"].get("annotations", {}):
        return
    classes = transaction.registry.get("ingressclasses", "networking.k8s.io")
    marked = [
        metadata
        for stored in transaction.all(classes)
        if (metadata := decode(classes, stored)["metadata"]).get("annotations", {}).get(_DEFAULT_CLASS) == "true"
    ]
    if marked:
        newest = max(metadata["creationTimestamp"] for metadata in marked)
        names = sorted(metadata["name"] for metadata in marked if metadata["creationTimestamp"] == newest)
        spec["ingressClassName"] = names[0]
