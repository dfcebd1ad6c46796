"""The value of an identity: its labels as `source:key=value;`, sorted by key.

Namespace, namespace labels, service account and cluster are folded in under keys of Cilium's, which is how a
namespaceSelector works in a cluster that does not hold the Namespace. The form has no escapes, so a label that holds
';' or '=' could speak for another: whatever is not Kubernetes label syntax is refused on the way in and on the way
out. Labels of a pod under the folded keys are not published at all: what a pod says of its own namespace is a claim.
"""

from isthmus.model.identity import Identity, number_range
from isthmus.model.labels import CILIUM_CLUSTER, CLUSTER_KEYS, NAMESPACE_NAME
from isthmus.wire.kvstore.checks import CodecError, clip, label_key_fault, label_value_fault, name_fault

SOURCE = "k8s"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
SERVICE_ACCOUNT = "io.cilium.k8s.policy.serviceaccount"

MAX_TEXT = 256 * 1024
"""Bytes; Kubernetes bounds keys and values, not their number, and an object's metadata stays below this."""

MAX_LABELS = 1024


def is_reserved_label(key: str) -> bool:
    """Tells whether a pod label `key` would be read as a fact about the pod's cluster, namespace or account."""
    return key in (POD_NAMESPACE, SERVICE_ACCOUNT, *CLUSTER_KEYS) or key.startswith(NAMESPACE_LABELS)


def encode_identity(key: bytes, identity: Identity) -> bytes:
    """Writes the value for `key`. Raises CodecError naming the label that is not Kubernetes syntax."""
    labels = {k: v for k, v in identity.labels.items() if not is_reserved_label(k)}
    for name, value in identity.namespace_labels.items():
        if name not in CLUSTER_KEYS:
            _check(key, name, value)
            labels[NAMESPACE_LABELS + name] = value
    labels[NAMESPACE_LABELS + NAMESPACE_NAME] = identity.namespace
    labels[POD_NAMESPACE] = identity.namespace
    labels[CILIUM_CLUSTER] = identity.cluster
    if identity.service_account:
        labels[SERVICE_ACCOUNT] = identity.service_account
    parts = []
    for name in sorted(labels):
        value = labels[name]
        if name == SERVICE_ACCOUNT:
            # A ServiceAccount's name may be longer than a label value.
            _raise(key, name, name_fault(value))
        elif not name.startswith(NAMESPACE_LABELS):
            _check(key, name, value)
        parts.append(f"{SOURCE}:{name}={value};")
    return "".join(parts).encode()


def decode_identity(key: bytes, value: bytes, *, number: int, cluster: str, cluster_id: int) -> Identity:
    """Reads the value of identity `number`, which must belong to `cluster` by its label and its number.

    Labels of other sources than `k8s` are left out: no Kubernetes selector can name them.
    """
    if number not in number_range(cluster_id):
        raise CodecError(key, "number", f"{number} is not a number of cluster {cluster} (ID {cluster_id})")
    labels: dict[str, str] = {}
    namespace_labels: dict[str, str] = {}
    facts: dict[str, str] = {}
    for name, text in _split(key, value).items():
        if name.startswith(NAMESPACE_LABELS):
            inner = name[len(NAMESPACE_LABELS) :]
            _check(key, inner, text)
            if inner not in (NAMESPACE_NAME, *CLUSTER_KEYS):
                namespace_labels[inner] = text
        elif is_reserved_label(name):
            facts[name] = text
        else:
            _check(key, name, text)
            labels[name] = text
    owner = facts.get(CILIUM_CLUSTER)
    if owner != cluster:
        found = "is missing" if owner is None else f"is {clip(owner)}"
        raise CodecError(key, CILIUM_CLUSTER, f"{found}, expected {cluster!r}")
    namespace = facts.get(POD_NAMESPACE, "")
    _raise(key, POD_NAMESPACE, name_fault(namespace, limit=63))
    account = facts.get(SERVICE_ACCOUNT, "")
    if account:
        _raise(key, SERVICE_ACCOUNT, name_fault(account))
    return Identity(
        number=number,
        cluster=cluster,
        namespace=namespace,
        labels=labels,
        namespace_labels=namespace_labels,
        service_account=account,
    )


def _split(key: bytes, value: bytes) -> dict[str, str]:
    """Takes a value apart into `k8s` labels; the last ';' must be there, or the value was cut short."""
    if len(value) > MAX_TEXT:
        raise CodecError(key, "", f"value is longer than {MAX_TEXT} bytes")
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        raise CodecError(key, "", "value is not ASCII") from None
    if not text.endswith(";"):
        raise CodecError(key, "", "value does not end with ';'")
    parts = text[:-1].split(";")
    if len(parts) > MAX_LABELS:
        raise CodecError(key, "", f"more than {MAX_LABELS} labels")
    found: dict[str, str] = {}
    for part in parts:
        source, colon, label = part.partition(":")
        name, equals, content = label.partition("=")
        if not colon or not equals:
            raise CodecError(key, "", f"{clip(part)} is not 'source:key=value'")
        if source == "reserved":
            raise CodecError(key, name, "a pod identity cannot carry reserved labels")
        if source != SOURCE:
            continue
        if name in found:
            raise CodecError(key, clip(name), "label is there twice")
        found[name] = content
    return found


def _check(key: bytes, name: str, value: str) -> None:
    _raise(key, clip(name), label_key_fault(name) or label_value_fault(value))


def _raise(key: bytes, field: str, fault: str | None) -> None:
    if fault is not None:
        raise CodecError(key, field, fault)
