"""Services: defaults, cluster addresses, node ports.

Addresses in use are read off the stored Services whenever one is needed, so a freed address is free and a restart
forgets nothing; a bitmap of its own, which the real server keeps and has to repair, was rejected. Dynamic addresses
come from the upper part of the range first (KEP-3070), which leaves the low ones to people who ask for one by number.
"""

import ipaddress
from collections.abc import Iterator

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.state import Transaction, decode
from isthmus.lab.apiserver.strategies import rules
from isthmus.lab.apiserver.strategies.base import Hooks, Network

NODE_PORTS = range(30000, 32768)
MAX_TRIED = 65536  # addresses looked at in one allocation
_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")


def reserved(network: Network) -> int:
    """Returns how many low addresses are given out only by number (KEP-3070: 1/16 of the range, 16-256)."""
    return min(max(16, network.num_addresses // 16), 256)


def first_address(network: Network) -> str:
    """Returns the address of the `kubernetes` Service."""
    return str(network[1])


def _candidates(network: Network) -> Iterator[str]:
    last = network.num_addresses - (2 if network.version == 4 else 1)
    low = reserved(network)
    if low <= last:
        yield from (str(network[at]) for at in range(low, min(last, low + MAX_TRIED) + 1))
    yield from (str(network[at]) for at in range(2, min(low, last + 1)))


class ServiceHooks(Hooks):
    """v1 Service."""

    name_rule = staticmethod(rules.dns_1035_label)

    def default(self, value: Json) -> None:
        """Sets type, session affinity, protocols, target ports and traffic policies."""
        spec = value.setdefault("spec", {})
        kind = spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        if spec["sessionAffinity"] == "ClientIP":
            client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
            client.setdefault("timeoutSeconds", 10800)
        for port in spec.get("ports", ()):
            port.setdefault("protocol", "TCP")
            if port.get("targetPort") in (None, 0, "") and "port" in port:
                port["targetPort"] = port["port"]
        if kind != "ExternalName":
            spec.setdefault("internalTrafficPolicy", "Cluster")
        if kind in ("NodePort", "LoadBalancer"):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if kind == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)

    def prepare_create(self, value: Json) -> None:
        """Starts with an empty status, which kubectl looks into."""
        value["status"] = {"loadBalancer": {}}

    def prepare_update(self, value: Json, old: Json) -> None:
        """Keeps what was allocated where the client left it out."""
        super().prepare_update(value, old)
        spec, was = value["spec"], old.get("spec", {})
        if spec["type"] == "ExternalName":
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if spec.get(name) == was.get(name):
                    spec.pop(name, None)
            return
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if name not in spec and name in was:
                spec[name] = was[name]
        if spec["type"] == "ClusterIP" and was.get("type") in ("NodePort", "LoadBalancer"):
            before = {(port.get("port"), port.get("protocol")): port.get("nodePort") for port in was.get("ports", ())}
            for port in spec.get("ports", ()):
                if port.get("nodePort") == before.get((port.get("port"), port.get("protocol"))):
                    port.pop("nodePort", None)
            spec.pop("externalTrafficPolicy", None)
        elif spec["type"] in ("NodePort", "LoadBalancer"):
            ports = {(port.get("port"), port.get("protocol")): port.get("nodePort") for port in was.get("ports", ())}
            for port in spec.get("ports", ()):
                kept = ports.get((port.get("port"), port.get("protocol")))
                if kept and not port.get("nodePort"):
                    port["nodePort"] = kept

    def validate(self, value: Json) -> list[FieldError]:
        """Checks type, ports, selector and affinity."""
        spec = value["spec"]
        kind = spec["type"]
        found = rules.one_of(kind, "spec.type", _TYPES)
        found += rules.one_of(spec["sessionAffinity"], "spec.sessionAffinity", ("ClientIP", "None"))
        found += rules.labels(spec.get("selector", {}), "spec.selector")
        headless = spec.get("clusterIP") == "None"
        if kind == "ExternalName":
            if not spec.get("externalName"):
                found.append(errors.required("spec.externalName"))
            else:
                found += rules.dns_subdomain(spec["externalName"].rstrip("."), "spec.externalName")
        elif not spec.get("ports") and not headless:
            found.append(errors.required("spec.ports"))
        found += self._ports(spec, many=len(spec.get("ports", ())) > 1)
        for index, text in enumerate(spec.get("externalIPs", ())):
            found += rules.address(text, f"spec.externalIPs[{index}]")
        if "internalTrafficPolicy" in spec:
            found += rules.one_of(spec["internalTrafficPolicy"], "spec.internalTrafficPolicy", ("Cluster", "Local"))
        if "externalTrafficPolicy" in spec:
            path = "spec.externalTrafficPolicy"
            if kind not in ("NodePort", "LoadBalancer"):
                text = "may only be set for externally-accessible services"
                found.append(errors.invalid(path, spec["externalTrafficPolicy"], text))
            else:
                found += rules.one_of(spec["externalTrafficPolicy"], path, ("Cluster", "Local"))
        return found

    def _ports(self, spec: Json, *, many: bool) -> list[FieldError]:
        found: list[FieldError] = []
        names: set[str] = set()
        pairs: set[tuple[int, str]] = set()
        for index, port in enumerate(spec.get("ports", ())):
            path = f"spec.ports[{index}]"
            name = port.get("name", "")
            if many and not name:
                found.append(errors.required(f"{path}.name"))
            elif name:
                found += rules.dns_label(name, f"{path}.name")
                if name in names:
                    found.append(errors.duplicate(f"{path}.name", name))
                names.add(name)
            found += rules.port_number(port.get("port", 0), f"{path}.port")
            found += rules.protocol(port["protocol"], f"{path}.protocol")
            if "targetPort" in port:
                found += rules.port_or_name(port["targetPort"], f"{path}.targetPort")
            if port.get("nodePort") and spec["type"] in ("ClusterIP", "ExternalName"):
                text = "may not be used when `type` is 'ClusterIP'"
                found.append(errors.forbidden(f"{path}.nodePort", text))
            pair = (port.get("port", 0), port["protocol"])
            if pair in pairs:
                found.append(errors.duplicate(path, {"port": pair[0], "protocol": pair[1]}))
            pairs.add(pair)
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses to change a cluster address once it was given."""
        was, now = old["spec"].get("clusterIP"), value["spec"].get("clusterIP")
        if was and now != was and "ExternalName" not in (old["spec"].get("type"), value["spec"]["type"]):
            return [errors.invalid("spec.clusterIPs[0]", now or "", "may not change once set")]
        return []

    def allocate(self, value: Json, transaction: Transaction) -> list[FieldError]:
        """Gives cluster addresses and node ports, or checks those asked for."""
        spec = value["spec"]
        if spec["type"] == "ExternalName":
            return []
        found = self._allocate_addresses(value, transaction)
        if spec["type"] in ("NodePort", "LoadBalancer"):
            found += self._allocate_ports(value, transaction)
        return found

    def _others(self, value: Json, transaction: Transaction) -> list[Json]:
        own = (value["metadata"]["namespace"], value["metadata"]["name"])
        stored = transaction.all(self.resource)
        return [decode(self.resource, other)["spec"] for other in stored if (other.namespace, other.name) != own]

    def _networks(self, spec: Json) -> tuple[list[Network], list[FieldError]]:
        available = {f"IPv{network.version}": network for network in self.settings.service_networks}
        families = list(spec.get("ipFamilies", ()))
        policy = spec.setdefault("ipFamilyPolicy", "SingleStack")
        supported = ("PreferDualStack", "RequireDualStack", "SingleStack")
        found = rules.one_of(policy, "spec.ipFamilyPolicy", supported)
        for index, family in enumerate(families):
            if family not in available:
                text = "not configured on this cluster"
                found.append(errors.invalid(f"spec.ipFamilies[{index}]", family, text))
        if policy == "RequireDualStack" and len(available) < 2:
            text = "this cluster is not configured for dual-stack services"
            found.append(errors.invalid("spec.ipFamilyPolicy", policy, text))
        if found:
            return [], found
        asked = spec.get("clusterIP")
        if not families and asked and asked != "None":
            families = [f"IPv{ipaddress.ip_address(asked).version}"]
        wanted = 1 if policy == "SingleStack" else len(available)
        families += [family for family in available if family not in families]
        spec["ipFamilies"] = families[: max(wanted, 1)]
        return [available[family] for family in spec["ipFamilies"] if family in available], []

    def _allocate_addresses(self, value: Json, transaction: Transaction) -> list[FieldError]:
        spec = value["spec"]
        asked = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
        if asked and spec.get("clusterIP") not in (None, "", asked[0]):
            return [errors.invalid("spec.clusterIPs", asked, "first value must match `clusterIP`")]
        if asked[:1] == ["None"]:
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
            return self._networks(spec)[1]
        for index, text in enumerate(asked):
            bad = rules.address(text, f"spec.clusterIPs[{index}]")
            if bad:
                return bad
        spec["clusterIP"] = asked[0] if asked else ""
        networks, found = self._networks(spec)
        if found or not networks:
            return found
        used = {text for other in self._others(value, transaction) for text in other.get("clusterIPs", ())}
        given: list[str] = []
        for index, network in enumerate(networks):
            if index < len(asked):
                text = asked[index]
                path = f"spec.clusterIPs[{index}]"
                if ipaddress.ip_address(text) not in network:
                    detail = f"failed to allocate IP {text}: the provided IP is not in the valid range {network}"
                    return [errors.invalid(path, asked, detail)]
                if text in used:
                    detail = f"failed to allocate IP {text}: provided IP is already allocated"
                    return [errors.invalid(path, asked, detail)]
                given.append(text)
                continue
            taken = {*used, first_address(network)}
            free = next((text for text in _candidates(network) if text not in taken), None)
            if free is None:
                raise errors.internal(f"failed to allocate a serviceIP: range {network} is full")
            given.append(free)
        spec["clusterIP"], spec["clusterIPs"] = given[0], given
        return []

    def _allocate_ports(self, value: Json, transaction: Transaction) -> list[FieldError]:
        if value["spec"].get("allocateLoadBalancerNodePorts") is False:
            return []
        others = [port for spec in self._others(value, transaction) for port in spec.get("ports", ())]
        used = {(port.get("nodePort"), port.get("protocol")) for port in others}
        found: list[FieldError] = []
        ports = value["spec"].get("ports", ())
        for index, port in enumerate(ports):
            number, path = port.get("nodePort"), f"spec.ports[{index}].nodePort"
            if number:
                if number not in NODE_PORTS:
                    valid = f"{NODE_PORTS[0]}-{NODE_PORTS[-1]}"
                    text = f"provided port is not in the valid range. The range of valid ports is {valid}"
                    found.append(errors.invalid(path, number, text))
                elif (number, port["protocol"]) in used:
                    found.append(errors.invalid(path, number, "provided port is already allocated"))
                used.add((number, port["protocol"]))
        for port in ports:
            if not port.get("nodePort"):
                free = next((number for number in NODE_PORTS if (number, port["protocol"]) not in used), None)
                if free is None:
                    raise errors.internal("failed to allocate a nodePort: range is full")
                port["nodePort"] = free
                used.add((free, port["protocol"]))
        return found
