"""Services: defaults, rules, and what a change of type takes along or leaves behind."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.storage.state import Transaction, decode
from isthmus.lab.apiserver.strategies import families, nodeports, rules
from isthmus.lab.apiserver.strategies.base import Hooks, Network

MAX_AFFINITY = 86400  # seconds
_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_POLICIES = ("Cluster", "Local")


def _external(spec: Json) -> bool:
    """Tells whether traffic from outside of the cluster is expected."""
    return nodeports.needed(spec) or (spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs")))


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
        if _external(spec):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if kind == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)

    def prepare_create(self, value: Json) -> None:
        """Starts with an empty status, which kubectl looks into."""
        value["status"] = {"loadBalancer": {}}
        families.normalise(value.setdefault("spec", {}), None)

    def prepare_update(self, value: Json, old: Json) -> None:
        """Keeps what was allocated where the client left it out, and drops what a new type does not have."""
        super().prepare_update(value, old)
        spec, was = value["spec"], old.get("spec", {})
        if spec["type"] == "ExternalName":
            for name in families.FIELDS if was.get("type") != "ExternalName" else ():
                if spec.get(name) == was.get(name):
                    spec.pop(name, None)
        elif was.get("type") != "ExternalName":
            if not spec.get("clusterIP") and was.get("clusterIP") and not spec.get("clusterIPs"):
                spec["clusterIP"] = was["clusterIP"]
            families.normalise(spec, was)
            if "ipFamilyPolicy" not in spec and "ipFamilyPolicy" in was:
                spec["ipFamilyPolicy"] = was["ipFamilyPolicy"]
            if "ipFamilies" not in spec and "ipFamilies" in was:
                spec["ipFamilies"] = was["ipFamilies"]
        nodeports.keep(spec, was)
        if spec["type"] != "LoadBalancer":
            value["status"] = {**value.get("status", {}), "loadBalancer": {}}
            for name in (
                ("allocateLoadBalancerNodePorts", "loadBalancerClass") if was.get("type") != spec["type"] else ()
            ):
                if spec.get(name) == was.get(name):
                    spec.pop(name, None)
        policy = "externalTrafficPolicy"
        if _external(was) and not _external(spec) and spec.get(policy) == was.get(policy):
            spec.pop(policy, None)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks type, ports, selector and affinity."""
        spec = value["spec"]
        kind = spec["type"]
        found = rules.one_of(kind, "spec.type", _TYPES)
        found += rules.one_of(spec["sessionAffinity"], "spec.sessionAffinity", ("ClientIP", "None"))
        found += rules.labels(spec.get("selector", {}), "spec.selector")
        headless = families.headless(spec)
        if kind == "ExternalName":
            for name in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if spec.get(name):
                    found.append(errors.forbidden(f"spec.{name}", "may not be set for ExternalName services"))
            if not spec.get("externalName"):
                found.append(errors.required("spec.externalName"))
            else:
                found += rules.dns_subdomain(spec["externalName"].removesuffix("."), "spec.externalName")
        elif not spec.get("ports") and not headless:
            found.append(errors.required("spec.ports"))
        if headless and nodeports.needed(spec):
            text = f"may not be set to 'None' for {kind} services"
            found.append(errors.invalid("spec.clusterIPs[0]", "None", text))
        found += self._ports(spec, many=len(spec.get("ports", ())) > 1)
        for index, text in enumerate(spec.get("externalIPs", ())):
            found += rules.address(text, f"spec.externalIPs[{index}]")
        if "internalTrafficPolicy" in spec:
            found += rules.one_of(spec["internalTrafficPolicy"], "spec.internalTrafficPolicy", _POLICIES)
        if kind != "ExternalName":
            found += families.check(spec)
        return found + self._affinity(spec) + self._outside(spec)

    @staticmethod
    def _affinity(spec: Json) -> list[FieldError]:
        path, config = "spec.sessionAffinityConfig", spec.get("sessionAffinityConfig")
        if spec["sessionAffinity"] == "None" and config is not None:
            return [errors.forbidden(path, "must not be set when session affinity is None")]
        if spec["sessionAffinity"] == "ClientIP":
            seconds = (config or {}).get("clientIP", {}).get("timeoutSeconds", 0)
            if not 0 < seconds <= MAX_AFFINITY:
                text = f"must be greater than 0 and less than {MAX_AFFINITY}"
                return [errors.invalid(f"{path}.clientIP.timeoutSeconds", seconds, text)]
        return []

    @staticmethod
    def _outside(spec: Json) -> list[FieldError]:
        names = ("allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges")
        text = "may only be used when `type` is 'LoadBalancer'"
        balanced = spec["type"] == "LoadBalancer"
        found = [errors.forbidden(f"spec.{name}", text) for name in names if name in spec and not balanced]
        for index, text in enumerate(spec.get("loadBalancerSourceRanges", ())):
            found += rules.network(text.strip(), f"spec.LoadBalancerSourceRanges[{index}]")
        path, policy = "spec.externalTrafficPolicy", spec.get("externalTrafficPolicy")
        if policy is not None and not _external(spec):
            found.append(errors.invalid(path, policy, "may only be set for externally-accessible services"))
        elif policy is not None:
            found += rules.one_of(policy, path, _POLICIES)
        if spec.get("healthCheckNodePort") and not nodeports.health_needed(spec):
            text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
            found.append(errors.invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], text))
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
            if port.get("nodePort") and spec["type"] == "ClusterIP":
                text = "may not be used when `type` is 'ClusterIP'"
                found.append(errors.forbidden(f"{path}.nodePort", text))
            pair = (port.get("port", 0), port["protocol"])
            if pair in pairs:
                found.append(errors.duplicate(path, {"port": pair[0], "protocol": pair[1]}))
            pairs.add(pair)
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses to change an address, a family or a class once it was given."""
        spec, was = value["spec"], old["spec"]
        found: list[FieldError] = []
        if "ExternalName" not in (spec["type"], was.get("type")):
            found += families.check_change(spec, was)
        if spec["type"] == was.get("type") == "LoadBalancer":
            new = spec.get("loadBalancerClass")
            if new != was.get("loadBalancerClass"):
                found.append(errors.invalid("spec.loadBalancerClass", new, "may not change once set"))
        return found

    def allocate(self, value: Json, transaction: Transaction, old: Json | None) -> list[FieldError]:
        """Gives cluster addresses and node ports, or checks those asked for."""
        spec, was = value["spec"], (old or {}).get("spec")
        if spec["type"] == "ExternalName":
            return []
        networks: dict[str, Network] = {f"IPv{found.version}": found for found in self.settings.service_networks}
        if was is not None and was.get("type") == "ExternalName":
            was = None
        # Once more, for services whose rules are not checked: addresses that are none cannot be given.
        found = families.check(spec) or families.settle(spec, was, networks)
        if found:
            return found
        others = self._others(value, transaction)
        used = {text for other in others for text in other.get("clusterIPs", ())}
        if value["metadata"]["name"] != "kubernetes" and networks:
            used.add(families.first_address(next(iter(networks.values()))))
        found = families.allocate(spec, networks, used)
        return found or nodeports.allocate(spec, {port for other in others for port in nodeports.held(other)})

    def _others(self, value: Json, transaction: Transaction) -> list[Json]:
        own = (value["metadata"]["namespace"], value["metadata"]["name"])
        stored = transaction.all(self.resource)
        return [decode(self.resource, other)["spec"] for other in stored if (other.namespace, other.name) != own]
