"""Ingresses and their classes: rules, backends, TLS."""

import ipaddress

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes.calls import Source
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.storage.state import Transaction
from isthmus.lab.apiserver.strategies import admission, rules
from isthmus.lab.apiserver.strategies.base import Hooks

_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_SEQUENCES = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDS = ("/..", "/.")
_MAX_CONTROLLER = 250  # characters


class IngressHooks(Hooks):
    """networking.k8s.io/v1 Ingress."""

    def admit(self, value: Json, transaction: Transaction, source: Source) -> None:
        """Sets the default class."""
        admission.classify(value, transaction)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks rules, backends, TLS hosts and the class."""
        spec = value.get("spec", {})
        found: list[FieldError] = []
        if not spec.get("rules") and "defaultBackend" not in spec:
            text = "either `defaultBackend` or `rules` must be specified"
            found.append(errors.invalid("spec", [], text))
        if "defaultBackend" in spec:
            found += _backend(spec["defaultBackend"], "spec.defaultBackend")
        for index, rule in enumerate(spec.get("rules", ())):
            found += _rule(rule, f"spec.rules[{index}]")
        for index, entry in enumerate(spec.get("tls", ())):
            for at, host in enumerate(entry.get("hosts", ())):
                found += _host(host, f"spec.tls[{index}].hosts[{at}]")
            if entry.get("secretName"):
                found += rules.dns_subdomain(entry["secretName"], f"spec.tls[{index}].secretName")
        if "ingressClassName" in spec:
            found += rules.dns_subdomain(spec["ingressClassName"], "spec.ingressClassName")
        return found


def _host(host: str, path: str) -> list[FieldError]:
    if "*" in host:
        return rules.wildcard_subdomain(host, path)
    return rules.dns_subdomain(host, path)


def _rule(rule: Json, path: str) -> list[FieldError]:
    found: list[FieldError] = []
    host = rule.get("host", "")
    if host:
        try:
            ipaddress.ip_address(host)
            found.append(errors.invalid(f"{path}.host", host, "must be a DNS name, not an IP address"))
        except ValueError:
            found += _host(host, f"{path}.host")
    if "http" not in rule:
        return found
    paths = rule["http"].get("paths", ())
    if not paths:
        found.append(errors.required(f"{path}.http.paths"))
    for index, entry in enumerate(paths):
        found += _path(entry, f"{path}.http.paths[{index}]")
    return found


def _path(entry: Json, path: str) -> list[FieldError]:
    kind, text = entry.get("pathType"), entry.get("path", "")
    if kind is None:
        return [errors.required(f"{path}.pathType", "pathType must be specified")]
    found: list[FieldError] = []
    if kind in ("Exact", "Prefix"):
        if not text.startswith("/"):
            found.append(errors.invalid(f"{path}.path", text, "must be an absolute path"))
        found += [
            errors.invalid(f"{path}.path", text, f"must not contain '{part}'")
            for part in _BAD_SEQUENCES
            if part in text
        ]
        found += [
            errors.invalid(f"{path}.path", text, f"cannot end with '{end}'") for end in _BAD_ENDS if text.endswith(end)
        ]
    elif kind == "ImplementationSpecific":
        if text and not text.startswith("/"):
            found.append(errors.invalid(f"{path}.path", text, "must be an absolute path"))
    else:
        found.append(errors.unsupported(f"{path}.pathType", kind, _PATH_TYPES))
    return found + _backend(entry.get("backend", {}), f"{path}.backend")


def _backend(backend: Json, path: str) -> list[FieldError]:
    if "service" in backend and "resource" in backend:
        return [errors.invalid(path, "", "cannot set both resource and service backends")]
    if "resource" in backend:
        held = backend["resource"]
        return [
            errors.required(f"{path}.resource.{name}", f"{name} is required")
            for name in ("kind", "name")
            if not held.get(name)
        ]
    if "service" not in backend:
        return [errors.invalid(path, "", "resource or service backend is required")]
    service = backend["service"]
    name, port = service.get("name", ""), service.get("port", {})
    found = rules.dns_1035_label(name, f"{path}.service.name") if name else [errors.required(f"{path}.service.name")]
    if port.get("name") and port.get("number"):
        found.append(errors.invalid(path, "", "cannot set both port name & port number"))
    elif port.get("name"):
        found += rules.port_name(port["name"], f"{path}.service.port.name")
    elif port.get("number"):
        found += rules.port_number(port["number"], f"{path}.service.port.number")
    else:
        found.append(errors.required(path, "port name or number is required"))
    return found


class IngressClassHooks(Hooks):
    """networking.k8s.io/v1 IngressClass."""

    def default(self, value: Json) -> None:
        """Parameters are looked for in the whole cluster."""
        parameters = value.setdefault("spec", {}).get("parameters")
        if parameters is not None:
            parameters.setdefault("scope", "Cluster")

    def validate(self, value: Json) -> list[FieldError]:
        """Checks the controller's name."""
        controller, path = value["spec"].get("controller", ""), "spec.controller"
        if len(controller) > _MAX_CONTROLLER:
            return [errors.too_long(path, _MAX_CONTROLLER)]
        domain, slash, rest = controller.partition("/")
        if not controller:
            return [errors.required(path)]
        if not slash or not domain or not rest:
            return [errors.invalid(path, controller, 'must be a domain-prefixed path (such as "acme.io/foo")')]
        return rules.dns_subdomain(domain, path)

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Keeps the controller."""
        return rules.immutable(value["spec"].get("controller"), old["spec"].get("controller"), "spec.controller")
