"""Rules on single values that many kinds share: names, labels, ports, addresses, label selectors.

Each function returns the errors it finds, so that a user is told all of them at once. Wording follows
k8s.io/apimachinery `pkg/util/validation`.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.inputs.selectors import valid_key, valid_value

PROTOCOLS = ("SCTP", "TCP", "UDP")
MAX_ANNOTATIONS = 256 * 1024  # bytes of all keys and values

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_PORT_NAME = re.compile(r"[a-z0-9-]+")

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    f"with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    f"and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    f"'{_LABEL_1035}')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_WILDCARD_TEXT = (
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
    "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', "
    f"regex used for validation is '\\*\\.{_SUBDOMAIN}')"
)
_LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_KEY_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def dns_label(value: str, path: str) -> list[FieldError]:
    """Checks an RFC 1123 label."""
    return _name(value, path, _LABEL, _LABEL_TEXT, 63)


def dns_1035_label(value: str, path: str) -> list[FieldError]:
    """Checks an RFC 1035 label, which cannot begin with a digit."""
    return _name(value, path, _LABEL_1035, _LABEL_1035_TEXT, 63)


def dns_subdomain(value: str, path: str) -> list[FieldError]:
    """Checks an RFC 1123 subdomain."""
    return _name(value, path, _SUBDOMAIN, _SUBDOMAIN_TEXT, 253)


def wildcard_subdomain(value: str, path: str) -> list[FieldError]:
    """Checks an RFC 1123 subdomain behind `*.`."""
    return _name(value, path, rf"\*\.{_SUBDOMAIN}", _WILDCARD_TEXT, 253)


def path_segment(value: str, path: str) -> list[FieldError]:
    """Checks a name that may be anything but what cannot stand in a path."""
    if value in (".", ".."):
        return [errors.invalid(path, value, f"may not be '{value}'")]
    return [errors.invalid(path, value, f"may not contain '{letter}'") for letter in "/%" if letter in value]


def _name(value: str, path: str, pattern: str, text: str, limit: int) -> list[FieldError]:
    found = []
    if len(value) > limit:
        found.append(errors.invalid(path, value, f"must be no more than {limit} bytes"))
    if not re.fullmatch(pattern, value):
        found.append(errors.invalid(path, value, text))
    return found


def labels(value: Mapping[str, str], path: str) -> list[FieldError]:
    """Checks label keys and values."""
    found = []
    for key, item in value.items():
        if not valid_key(key):
            found.append(errors.invalid(path, key, _KEY_TEXT))
        found += label_value(item, path)
    return found


def label_value(value: str, path: str) -> list[FieldError]:
    """Checks the value of a label."""
    if len(value) > 63:
        return [errors.invalid(path, value, "must be no more than 63 bytes")]
    return [] if valid_value(value) else [errors.invalid(path, value, _LABEL_VALUE_TEXT)]


def annotations(value: Mapping[str, str], path: str) -> list[FieldError]:
    """Checks annotation keys and the size of all together."""
    found = [errors.invalid(path, key, _KEY_TEXT) for key in value if not valid_key(key.lower())]
    if sum(len(key) + len(item) for key, item in value.items()) > MAX_ANNOTATIONS:
        found.append(errors.too_long(path, MAX_ANNOTATIONS))
    return found


def metadata(value: Json) -> list[FieldError]:
    """Checks the labels, annotations, finalizers and owners of any object."""
    found = labels(value.get("labels", {}), "metadata.labels")
    found += annotations(value.get("annotations", {}), "metadata.annotations")
    for index, finalizer in enumerate(value.get("finalizers", ())):
        path = f"metadata.finalizers[{index}]"
        if not valid_key(finalizer):
            found.append(errors.invalid(path, finalizer, _KEY_TEXT))
        elif "/" not in finalizer and finalizer not in ("kubernetes", "orphan", "foregroundDeletion"):
            text = "name is neither a standard finalizer name nor is it fully qualified"
            found.append(errors.invalid(path, finalizer, text))
    controllers: list[Json] = []
    for owner in value.get("ownerReferences", ()):
        path = "metadata.ownerReferences"  # without the index, as the real server tells it
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                text = f"{'version' if name == 'apiVersion' else name} must not be empty"
                found.append(errors.invalid(f"{path}.{name}", owner.get(name, ""), text))
        if (owner.get("apiVersion"), owner.get("kind")) == ("v1", "Event"):
            found.append(errors.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner"))
        if owner.get("controller"):
            controllers.append(owner)
    if len(controllers) > 1:
        text = 'Only one reference can have Controller set to true. Found "true" in references for '
        text += " and ".join(f"{owner.get('kind', '')}/{owner.get('name', '')}" for owner in controllers[:2])
        found.append(errors.invalid("metadata.ownerReferences", value["ownerReferences"], text))
    return found


def port_number(value: Any, path: str) -> list[FieldError]:
    """Checks a port number, 1-65535."""
    if isinstance(value, int) and 1 <= value <= 65535:
        return []
    return [errors.invalid(path, value, "must be between 1 and 65535, inclusive")]


def port_name(value: str, path: str) -> list[FieldError]:
    """Checks a port name (RFC 6335)."""
    found = []
    if len(value) > 15:
        found.append(errors.invalid(path, value, "must be no more than 15 characters"))
    if not _PORT_NAME.fullmatch(value):
        found.append(errors.invalid(path, value, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens"))
    elif "--" in value:
        found.append(errors.invalid(path, value, "must not contain consecutive hyphens"))
    elif value.startswith("-") or value.endswith("-"):
        found.append(errors.invalid(path, value, "must not begin or end with a hyphen"))
    if not any(letter.isalpha() for letter in value):
        found.append(errors.invalid(path, value, "must contain at least one letter (a-z)"))
    return found


def port_or_name(value: Any, path: str) -> list[FieldError]:
    """Checks an IntOrString that names a port."""
    return port_name(value, path) if isinstance(value, str) else port_number(value, path)


def protocol(value: str, path: str) -> list[FieldError]:
    """Checks a transport protocol."""
    return [] if value in PROTOCOLS else [errors.unsupported(path, value, PROTOCOLS)]


def one_of(value: str, path: str, supported: tuple[str, ...]) -> list[FieldError]:
    """Checks a word of a closed list."""
    return [] if value in supported else [errors.unsupported(path, value, supported)]


def not_negative(value: Any, path: str) -> list[FieldError]:
    """Checks a number that cannot be below 0; None passes."""
    if value is None or value >= 0:
        return []
    return [errors.invalid(path, value, "must be greater than or equal to 0")]


def address(value: str, path: str) -> list[FieldError]:
    """Checks an IP address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return [errors.invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]
    return []


def network(value: str, path: str) -> list[FieldError]:
    """Checks a CIDR, with or without host bits."""
    address_text, slash, length = value.partition("/")
    if slash and length.isdecimal():
        try:
            ipaddress.ip_network(f"{address_text}/{length}", strict=False)
        except ValueError:
            pass
        else:
            return []
    return [errors.invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")]


def label_selector(value: Json, path: str) -> list[FieldError]:
    """Checks a metav1.LabelSelector."""
    found = labels(value.get("matchLabels", {}), f"{path}.matchLabels")
    for index, term in enumerate(value.get("matchExpressions", ())):
        place = f"{path}.matchExpressions[{index}]"
        operator, values = term.get("operator", ""), term.get("values", [])
        if operator in ("In", "NotIn"):
            if not values:
                text = "must be specified when `operator` is 'In' or 'NotIn'"
                found.append(errors.required(f"{place}.values", text))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                found.append(errors.forbidden(f"{place}.values", text))
        else:
            found.append(errors.invalid(f"{place}.operator", operator, "not a valid selector operator"))
        if not valid_key(term.get("key", "")):
            found.append(errors.invalid(f"{place}.key", term.get("key", ""), _KEY_TEXT))
        for at, item in enumerate(values):
            found += label_value(item, f"{place}.values[{at}]")
    return found


def immutable(new: Any, old: Any, path: str) -> list[FieldError]:
    """Checks that a value did not change."""
    return [] if new == old else [errors.invalid(path, new, "field is immutable")]
