"""The token subresource of service accounts."""

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.access.auth import ISSUER, Authenticator
from isthmus.lab.apiserver.changes.calls import Call, Source
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.inputs import decoding
from isthmus.lab.apiserver.schema.typetable import find
from isthmus.lab.apiserver.storage.state import State, decode

DEFAULT_SECONDS = 3600
MIN_SECONDS = 600  # as the real server
MAX_SECONDS = 2**32
_BINDABLE = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


async def issue_token(state: State, authenticator: Authenticator, call: Call, body: Json) -> bytes:
    """Returns the answered TokenRequest, encoded; raises 404, 422."""
    package = "io.k8s.api.authentication.v1"
    decoding.check_kind(body, kind="TokenRequest", api_version="authentication.k8s.io/v1")
    shape = find("TokenRequest", package=package)
    value, _ = decoding.conform(body, shape, kind="TokenRequest", version="authentication.k8s.io/v1")
    stored = state.cache(call.resource).objects.get((call.namespace, call.name))
    if stored is None:
        raise errors.not_found(call.resource.qualified, call.name)
    spec = value.setdefault("spec", {})
    seconds = spec.setdefault("expirationSeconds", DEFAULT_SECONDS)
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        text = "may not specify a duration less than 10 minutes" if seconds < MIN_SECONDS else "is too long"
        bad = errors.invalid("spec.expirationSeconds", seconds, text)
        raise errors.unprocessable("TokenRequest.authentication.k8s.io", call.name, [bad])
    bound = _bound(state, call, spec["boundObjectRef"]) if spec.get("boundObjectRef") else None
    audiences = spec.get("audiences") or [ISSUER]
    spec["audiences"] = audiences
    token = authenticator.issue(
        namespace=call.namespace,
        name=call.name,
        uid=decode(call.resource, stored)["metadata"]["uid"],
        seconds=seconds,
        audiences=audiences,
        bound=bound,
    )
    created = Source().timestamp()
    value["metadata"] = {"name": call.name, "namespace": call.namespace, "creationTimestamp": created}
    value["status"] = {"token": token, "expirationTimestamp": Source().timestamp(later=seconds)}
    return msgspec.json.encode(value)


def _bound(state: State, call: Call, reference: Json) -> tuple[str, str, str]:
    """Returns (kind, name, UID) of the object that the token is bound to; raises 400, 404 or 409."""
    kind, name = reference.get("kind", ""), reference.get("name", "")
    if reference.get("apiVersion", "v1") != "v1" or kind not in _BINDABLE:
        version = reference.get("apiVersion", "")
        raise errors.bad_request(f"cannot bind token to object of type {version}, Kind={kind}")
    resource = state.registry.get(_BINDABLE[kind])
    place = call.namespace if resource.namespaced else ""
    stored = state.cache(resource).objects.get((place, name))
    if stored is None:
        raise errors.not_found(resource.qualified, name)
    held = decode(resource, stored)
    if kind == "Pod" and held["spec"].get("serviceAccountName") != call.name:
        text = f'cannot bind token for serviceaccount "{call.name}" to pod running with different serviceaccount name.'
        raise errors.bad_request(text)
    uid = held["metadata"]["uid"]
    if reference.get("uid") and reference["uid"] != uid:
        text = f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record"
        raise errors.conflict(kind, name, f"{text}. The object might have been deleted and then recreated")
    return kind, name, uid
