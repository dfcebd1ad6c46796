"""Virtual resources: questions that are answered on the spot. Whoever may ask may do everything (see `access.auth`)."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.access.auth import ANONYMOUS, Authenticator, User
from isthmus.lab.apiserver.changes.calls import Call
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.errors import FieldError, Json

_EVERYTHING = {
    "incomplete": False,
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
}
_ALLOWED = {"allowed": True, "reason": "the lab does not restrict known users"}
_DENIED = {"allowed": False, "reason": "nobody known"}


def user_info(user: User) -> Json:
    """Returns a user as authentication.k8s.io/v1 has it."""
    info: Json = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = {key: list(items) for key, items in user.extra.items()}
    return info


def review(life: Lifecycle, call: Call, body: Json, *, user: User, authenticator: Authenticator) -> Json:
    """Returns the answered review; raises 422 for a question that cannot be answered."""
    value = life.read_body(call, body)
    spec = value.get("spec", {})
    match call.resource.kind:
        case "SelfSubjectAccessReview":
            _refuse(call, _question(spec))
            value["status"] = _ALLOWED
        case "SubjectAccessReview" | "LocalSubjectAccessReview":
            found = _question(spec)
            if not spec.get("user") and not spec.get("groups"):
                found.append(errors.invalid("spec.user", "", "at least one of user or group must be specified"))
            _refuse(call, found)
            value["status"] = _DENIED if spec.get("user") == ANONYMOUS else _ALLOWED
        case "SelfSubjectRulesReview":
            value["status"] = _EVERYTHING
        case "SelfSubjectReview":
            value["status"] = {"userInfo": user_info(user)}
        case "TokenReview":
            if not spec.get("token"):
                _refuse(call, [errors.required("spec.token")])
            value["status"] = _token(spec, authenticator)
        case _:
            raise errors.method_not_allowed()
    return {"kind": value["kind"], "apiVersion": value["apiVersion"], **value}


def _refuse(call: Call, found: list[FieldError]) -> None:
    if found:
        raise errors.unprocessable(call.resource.qualified_kind, "", found)


def _question(spec: Json) -> list[FieldError]:
    about = [name for name in ("resourceAttributes", "nonResourceAttributes") if name in spec]
    if len(about) == 2:
        text = "cannot be specified in combination with resourceAttributes"
        return [errors.invalid("spec.nonResourceAttributes", spec["nonResourceAttributes"], text)]
    if not about:
        text = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        return [errors.invalid("spec.resourceAttributes", None, text)]
    return []


def _token(spec: Json, authenticator: Authenticator) -> Json:
    asked = spec.get("audiences", [])
    found = authenticator.bearer(spec["token"], audiences=asked)
    if found is None:
        return {"user": {}, "error": "[invalid bearer token]"}
    user, audiences = found
    status: Json = {"authenticated": True, "user": user_info(user)}
    return {**status, "audiences": audiences} if audiences else status
