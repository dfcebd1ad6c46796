"""Virtual resources: questions that are answered on the spot. Whoever may ask may do everything (see `auth`)."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.auth import User
from isthmus.lab.apiserver.calls import Call
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.lifecycle import Lifecycle

_EVERYTHING = {
    "incomplete": False,
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
}


def review(life: Lifecycle, call: Call, body: Json, *, user: User) -> Json:
    """Returns the answered review."""
    value = life.read_body(call, body)
    match call.resource.kind:
        case "SelfSubjectAccessReview":
            value["status"] = {"allowed": True, "reason": "the lab does not restrict known users"}
        case "SelfSubjectRulesReview":
            value["status"] = _EVERYTHING
        case "SelfSubjectReview":
            info: Json = {"username": user.name, "groups": list(user.groups)}
            value["status"] = {"userInfo": {**info, "uid": user.uid} if user.uid else info}
        case _:
            raise errors.method_not_allowed()
    return {"kind": value["kind"], "apiVersion": value["apiVersion"], **value}
