"""Subresources that are neither status nor streams: binding, finalize and scale."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes.apply import server_side_apply
from isthmus.lab.apiserver.changes.calls import Call
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.changes.ownership import leaves
from isthmus.lab.apiserver.changes.patching import APPLY_PATCH, apply_patch
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.inputs import decoding
from isthmus.lab.apiserver.schema.typetable import find
from isthmus.lab.apiserver.storage.state import Transaction, decode
from isthmus.lab.apiserver.storage.watchcache import Stored, text_at


def bind(life: Lifecycle, transaction: Transaction, call: Call, body: Json) -> None:
    """Puts the pod that the call names on the node of a v1 Binding; 409 if it has one."""
    shape = find("Binding", package="io.k8s.api.core.v1")
    binding, _ = decoding.conform(body, shape, kind="Binding", version="v1")
    node = binding.get("target", {}).get("name", "")
    if binding.get("target", {}).get("kind", "Node") != "Node" or not node:
        raise errors.unprocessable("Binding", call.name, [errors.required("target.name")])
    value, old = life.load(transaction, call), life.load(transaction, call)
    spec = value["spec"]
    if "deletionTimestamp" in value["metadata"]:
        text = f"pod {call.name} is being deleted, cannot be assigned to a host"
        raise errors.conflict("pods/binding", call.name, text)
    if spec.get("nodeName"):
        text = f'pod {call.name} is already assigned to node "{spec["nodeName"]}"'
        raise errors.conflict("pods/binding", call.name, text)
    spec["nodeName"] = node
    status = value.setdefault("status", {})
    others = [condition for condition in status.get("conditions", ()) if condition.get("type") != "PodScheduled"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": life.source.timestamp()}
    status["conditions"] = [*others, scheduled]
    for name in ("annotations", "labels"):
        if name in binding.get("metadata", {}):
            value["metadata"].setdefault(name, {}).update(binding["metadata"][name])
    life.finish(transaction, call, value, old=old, counted=False)


def finalize(life: Lifecycle, transaction: Transaction, call: Call, body: Json) -> Stored:
    """Replaces a namespace's spec.finalizers; the last one gone from a deleted namespace removes it."""
    sent = life.read_body(call, body)
    value, old = life.load(transaction, call), life.load(transaction, call)
    asked = sent["metadata"].get("resourceVersion")
    if asked and asked != old["metadata"]["resourceVersion"]:
        raise errors.conflict(call.resource.qualified, call.name)
    finalizers = sent.get("spec", {}).get("finalizers", [])
    value["spec"] = {"finalizers": finalizers} if finalizers else {}
    return life.finish(transaction, call, value, old=old)


def read_scale(call: Call, stored: Stored) -> Json:
    """Returns the autoscaling/v1 Scale of a workload."""
    value = decode(call.resource, stored)
    metadata = value["metadata"]
    paths = call.resource.scale_paths()
    if paths is not None:
        selector = text_at(value, paths.selector) if paths.selector else ""
        status = {"replicas": _count(value, paths.status_replicas), **({"selector": selector} if selector else {})}
        return _scale(metadata, {"replicas": _count(value, paths.replicas)}, status)
    terms = [f"{key}={item}" for key, item in value["spec"].get("selector", {}).get("matchLabels", {}).items()]
    for term in value["spec"].get("selector", {}).get("matchExpressions", ()):
        words = {"In": "in", "NotIn": "notin"}
        if term["operator"] in words:
            terms.append(f"{term['key']} {words[term['operator']]} ({','.join(term.get('values', ()))})")
        else:
            terms.append(term["key"] if term["operator"] == "Exists" else f"!{term['key']}")
    status = {"replicas": value.get("status", {}).get("replicas", 0), "selector": ",".join(sorted(terms))}
    return _scale(metadata, {"replicas": value["spec"].get("replicas", 1)}, status)


def _scale(metadata: Json, spec: Json, status: Json) -> Json:
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    kept = {name: metadata[name] for name in names if name in metadata}
    wanted = {name: item for name, item in spec.items() if item}  # no zero: Go leaves it out
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": wanted, "status": status}


def _count(value: Json, path: str) -> int:
    text = text_at(value, path)
    return int(text) if text.lstrip("-").isdecimal() else 0


def _set_replicas(call: Call, value: Json, replicas: int) -> None:
    """Puts the number where the kind has it."""
    paths = call.resource.scale_paths()
    *places, last = paths.replicas.split(".") if paths is not None else ("spec", "replicas")
    held = value
    for place in places:
        below = held.setdefault(place, {})
        if not isinstance(below, dict):
            raise errors.bad_request(f"{place} of the object is not an object")
        held = below
    held[last] = replicas


def write_scale(life: Lifecycle, transaction: Transaction, call: Call, body: Json) -> Json:
    """Sets the replicas of a workload from a Scale; returns the new Scale."""
    decoding.check_kind(body, kind="Scale", api_version="autoscaling/v1")
    shape = find("Scale", package="io.k8s.api.autoscaling.v1")
    scale, _ = decoding.conform(body, shape, kind="Scale", version="autoscaling/v1")
    replicas = scale.get("spec", {}).get("replicas", 0)
    if replicas < 0:
        bad = errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise errors.unprocessable("Scale.autoscaling", call.name, [bad])
    value, old = life.load(transaction, call), life.load(transaction, call)
    asked = scale.get("metadata", {}).get("resourceVersion")
    if asked and asked != old["metadata"]["resourceVersion"]:
        raise errors.conflict(call.resource.qualified, call.name)
    _set_replicas(call, value, replicas)
    return read_scale(call, life.update(transaction, call, value, old=old))


def patch_scale(life: Lifecycle, transaction: Transaction, call: Call, patch: Json, *, media_type: str) -> Json:
    """Patches the Scale of a workload; returns the new Scale."""
    stored = transaction.get(call.resource, namespace=call.namespace, name=call.name)
    if stored is None:
        raise errors.not_found(call.resource.qualified, call.name)
    shape = find("Scale", package="io.k8s.api.autoscaling.v1")
    scale = read_scale(call, stored)
    version = scale["metadata"].pop("resourceVersion")
    if media_type == APPLY_PATCH:
        sent, _ = decoding.conform(patch, shape, kind="Scale", version="autoscaling/v1")
        writer = life.writer(call, "Apply").with_paths(frozenset(leaves(sent, shape)))
        patched, _ = server_side_apply(scale, sent, shape=shape, managers=[], writer=writer, force=call.force)
    else:
        patched = apply_patch(scale, patch, media_type=media_type, shape=shape)
    asked = patched.get("metadata", {}).get("resourceVersion", version)
    patched.setdefault("metadata", {})["resourceVersion"] = asked
    return write_scale(life, transaction, call, patched)
