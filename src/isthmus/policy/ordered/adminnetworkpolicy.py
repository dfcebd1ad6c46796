"""policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy and BaselineAdminNetworkPolicy -> Policy.

They are the older words for ClusterNetworkPolicy (reference: policy-apis §1.6) and join the same tiers: an
AdminNetworkPolicy stands among the ClusterNetworkPolicies of the Admin tier by its priority, the one
BaselineAdminNetworkPolicy comes after all of the Baseline tier, where it can tie with none. Lists may be longer.
Refusing objects over the newer limit of 25 rules was rejected: whoever still has them needs them enforced.
"""

from collections.abc import Mapping

from isthmus.policy.context import Context, Parsed
from isthmus.policy.fields import Reader, show
from isthmus.policy.metadata import required
from isthmus.policy.ordered.clusternetworkpolicy import LAST_PRIORITY, named_port, port_range
from isthmus.policy.ordered.objects import UNKNOWN_PLACE, Dialect, Place, number, read_ordered
from isthmus.policy.ordered.peers import one_of
from isthmus.policy.rules import Action, Port, PortRange, Tier

KIND = "AdminNetworkPolicy"
BASELINE_KIND = "BaselineAdminNetworkPolicy"
ONLY_BASELINE = "default"
AFTER_ALL = LAST_PRIORITY + 1
_PORT_WORDS = frozenset({"portNumber", "portRange", "namedPort"})


def read(obj: Mapping[str, object], context: Context) -> Parsed:
    """Reads an AdminNetworkPolicy, which is one policy; raises ValueError only if the object has no name."""
    return read_ordered(obj, context, _ADMIN, _place)


def read_baseline(obj: Mapping[str, object], context: Context) -> Parsed:
    """Reads a BaselineAdminNetworkPolicy; the one that may be is called `default`."""
    ref = required(obj, BASELINE_KIND, namespaced=False)

    def place(spec: Mapping[str, object], reader: Reader) -> Place:
        if ref.name == ONLY_BASELINE:
            return Place(Tier.BASELINE, AFTER_ALL)
        reader.complain(
            "metadata.name",
            f'Invalid value: {show(ref.name)}: Only one baseline admin network policy with metadata.name="default" '
            "can be created in the cluster",
        )
        return Place(Tier.BASELINE, AFTER_ALL, certain=False)

    return read_ordered(obj, context, _BASELINE, place)


def _place(spec: Mapping[str, object], reader: Reader) -> Place:
    priority = number(spec, "priority", reader, low=0, high=LAST_PRIORITY)
    return Place(Tier.ADMIN, priority) if priority is not None else UNKNOWN_PLACE


def _port(reader: Reader, entry: Mapping[str, object], field: str) -> Port | None:
    word = one_of(reader, entry, field, _PORT_WORDS)
    if word is None:
        return None
    value, path = entry[word], f"{field}.{word}"
    if word == "namedPort":
        return named_port(reader, value, path)
    given = reader.mapping(value, path)
    if given is None:
        return None
    protocol = reader.protocol(given.get("protocol"), f"{path}.protocol")
    if protocol is None:
        return None
    if word == "portRange":
        ends = port_range(reader, given, path, frozenset({"protocol"}))
        return PortRange(protocol, *ends) if ends is not None else None
    if unknown := sorted(given.keys() - {"protocol", "port"}):
        reader.complain(f"{path}.{unknown[0]}", "is not a known field; should be protocol and port")
        return None
    only = reader.number(given.get("port"), f"{path}.port", low=1, high=65535)
    return PortRange(protocol, only, only) if only is not None else None


_ADMIN = Dialect(
    KIND,
    {"Allow": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS},
    100,
    "ports",
    _port,
    frozenset({"namespaces", "pods", "networks", "nodes", "domainNames"}),
    frozenset({"priority", "subject", "ingress", "egress"}),
    pods_need_namespaces=True,
)
_BASELINE = Dialect(
    BASELINE_KIND,
    {"Allow": Action.ALLOW, "Deny": Action.DENY},
    100,
    "ports",
    _port,
    frozenset({"namespaces", "pods", "networks", "nodes"}),
    frozenset({"subject", "ingress", "egress"}),
    pods_need_namespaces=True,
)
