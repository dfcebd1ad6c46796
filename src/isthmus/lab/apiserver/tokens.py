"""The token subresource of service accounts."""

import msgspec

from isthmus.lab.apiserver import decoding, errors
from isthmus.lab.apiserver.auth import Authenticator
from isthmus.lab.apiserver.calls import Call, Source
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.state import State, decode
from isthmus.lab.apiserver.typetable import find

DEFAULT_SECONDS = 3600
MIN_SECONDS = 600  # as the real server
MAX_SECONDS = 2**32


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
    token = authenticator.issue(
        namespace=call.namespace,
        name=call.name,
        uid=decode(call.resource, stored)["metadata"]["uid"],
        seconds=seconds,
        audiences=spec.get("audiences", []),
    )
    value["metadata"] = {"name": call.name, "namespace": call.namespace}
    value["status"] = {"token": token, "expirationTimestamp": Source().timestamp(later=seconds)}
    return msgspec.json.encode(value)
