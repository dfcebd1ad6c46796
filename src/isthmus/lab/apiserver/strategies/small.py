"""Kinds with few rules: configuration, accounts, nodes, events, endpoints, leases."""

import base64
import re

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules
from isthmus.lab.apiserver.strategies.base import Hooks

MAX_DATA = 1024 * 1024  # bytes of all values of a ConfigMap or Secret
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_DATA_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def _data_keys(value: Json, name: str) -> list[FieldError]:
    found = []
    for key in value.get(name, {}):
        if len(key) > 253:
            found.append(errors.too_long(f"{name}[{key}]", 253))
        elif not _DATA_KEY.fullmatch(key) or key in (".", ".."):
            found.append(errors.invalid(f"{name}[{key}]", key, _DATA_KEY_TEXT))
    return found


def _frozen(value: Json, old: Json, names: tuple[str, ...]) -> list[FieldError]:
    if not old.get("immutable"):
        return []
    text = "field is immutable when `immutable` is set"
    return [errors.forbidden(name, text) for name in (*names, "immutable") if value.get(name) != old.get(name)]


class ConfigMapHooks(Hooks):
    """v1 ConfigMap."""

    def validate(self, value: Json) -> list[FieldError]:
        """Checks keys and size."""
        found = _data_keys(value, "data") + _data_keys(value, "binaryData")
        for key in value.get("binaryData", {}).keys() & value.get("data", {}).keys():
            found.append(errors.invalid("data", key, f"duplicate of key present in binaryData: {key}"))
        held = [*value.get("data", {}).values(), *value.get("binaryData", {}).values()]
        if sum(len(item.encode()) for item in held) > MAX_DATA:
            found.append(errors.too_long("", MAX_DATA))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Keeps what is marked immutable."""
        return _frozen(value, old, ("data", "binaryData"))


class SecretHooks(Hooks):
    """v1 Secret: `stringData` is written into `data`."""

    def default(self, value: Json) -> None:
        """Sets the type and encodes stringData."""
        value.setdefault("type", "Opaque")
        for key, text in value.pop("stringData", {}).items():
            value.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()

    def validate(self, value: Json) -> list[FieldError]:
        """Checks keys and size."""
        found = _data_keys(value, "data")
        if sum(len(item) for item in value.get("data", {}).values()) * 3 // 4 > MAX_DATA:
            found.append(errors.too_long("data", MAX_DATA))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Keeps the type, and what is marked immutable."""
        return rules.immutable(value["type"], old.get("type"), "type") + _frozen(value, old, ("data",))


class NodeHooks(Hooks):
    """v1 Node. Its status may come with its creation, as kubelets do it."""

    def prepare_create(self, value: Json) -> None:
        """Keeps the status."""

    def default(self, value: Json) -> None:
        """Makes podCIDR and podCIDRs agree, and capacity allocatable."""
        spec = value.setdefault("spec", {})
        if spec.get("podCIDR") and not spec.get("podCIDRs"):
            spec["podCIDRs"] = [spec["podCIDR"]]
        elif spec.get("podCIDRs") and not spec.get("podCIDR"):
            spec["podCIDR"] = spec["podCIDRs"][0]
        status = value.get("status", {})
        if status.get("capacity") and not status.get("allocatable"):
            status["allocatable"] = dict(status["capacity"])

    def validate(self, value: Json) -> list[FieldError]:
        """Checks the pod networks."""
        found = []
        for index, text in enumerate(value["spec"].get("podCIDRs", ())):
            found += rules.network(text, f"spec.podCIDRs[{index}]")
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Pod networks, once set, stay."""
        was, now = old.get("spec", {}).get("podCIDRs"), value["spec"].get("podCIDRs")
        if was and was != now:
            text = 'node updates may not change podCIDR except from "" to valid'
            return [errors.forbidden("spec.podCIDRs", text)]
        return []


class EventHooks(Hooks):
    """v1 Event."""

    def validate(self, value: Json) -> list[FieldError]:
        """Checks that the event stands in its object's namespace."""
        held = value["metadata"].get("namespace", "")
        about = value.get("involvedObject", {}).get("namespace", "")
        if about != held and not (about == "" and held == "default"):
            return [errors.invalid("involvedObject.namespace", about, "does not match event.namespace")]
        return []


class EndpointSliceHooks(Hooks):
    """discovery.k8s.io/v1 EndpointSlice."""

    def default(self, value: Json) -> None:
        """Sets name and protocol of ports."""
        for endpoint in value.setdefault("endpoints", []):
            endpoint.setdefault("conditions", {})
        for port in value.get("ports", ()):
            port.setdefault("name", "")
            port.setdefault("protocol", "TCP")

    def validate(self, value: Json) -> list[FieldError]:
        """Checks address type, addresses and ports."""
        kind = value.get("addressType", "")
        if not kind:
            return [errors.required("addressType")]
        found = rules.one_of(kind, "addressType", ("FQDN", "IPv4", "IPv6"))
        if len(value["endpoints"]) > 1000:
            found.append(FieldError("FieldValueTooMany", "endpoints", "Too many: must have at most 1000 items"))
        for index, endpoint in enumerate(value["endpoints"]):
            if not endpoint.get("addresses"):
                found.append(errors.required(f"endpoints[{index}].addresses", "must contain at least 1 address"))
            for at, text in enumerate(endpoint.get("addresses", ())):
                if kind != "FQDN":
                    found += rules.address(text, f"endpoints[{index}].addresses[{at}]")
        for index, port in enumerate(value.get("ports", ())):
            found += rules.protocol(port["protocol"], f"ports[{index}].protocol")
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Keeps the address type."""
        return rules.immutable(value.get("addressType"), old.get("addressType"), "addressType")


class EndpointsHooks(Hooks):
    """v1 Endpoints."""

    def default(self, value: Json) -> None:
        """Sets the protocol of ports."""
        for subset in value.get("subsets", ()):
            for port in subset.get("ports", ()):
                port.setdefault("protocol", "TCP")

    def validate(self, value: Json) -> list[FieldError]:
        """Checks addresses and ports."""
        found = []
        for index, subset in enumerate(value.get("subsets", ())):
            for name in ("addresses", "notReadyAddresses"):
                for at, address in enumerate(subset.get(name, ())):
                    found += rules.address(address.get("ip", ""), f"subsets[{index}].{name}[{at}].ip")
            for at, port in enumerate(subset.get("ports", ())):
                found += rules.port_number(port.get("port", 0), f"subsets[{index}].ports[{at}].port")
                found += rules.protocol(port["protocol"], f"subsets[{index}].ports[{at}].protocol")
        return found


class LeaseHooks(Hooks):
    """coordination.k8s.io/v1 Lease."""

    def validate(self, value: Json) -> list[FieldError]:
        """Checks duration and transitions."""
        spec = value.get("spec", {})
        found = rules.not_negative(spec.get("leaseTransitions"), "spec.leaseTransitions")
        seconds = spec.get("leaseDurationSeconds")
        if seconds is not None and seconds <= 0:
            found.append(errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
        return found
