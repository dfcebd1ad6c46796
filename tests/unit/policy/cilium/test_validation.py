"""What Cilium would refuse is refused with its reason and the field; what it accepts is accepted, however odd."""

from typing import Any

import pytest

from isthmus.policy.cilium.objects import read
from isthmus.policy.context import CidrGroup, Context, Parsed
from isthmus.policy.rules import Action, Direction, Grade, Rule

SUBJECT: dict[str, Any] = {"endpointSelector": {"matchLabels": {"app": "a"}}}
CONTEXT = Context("c1", cidr_groups={"g": CidrGroup("g", {}, ("10.0.0.0/8",)), "bad": CidrGroup("bad", {}, ("x",))})
NEVER = [{"port": "80", "protocol": "TCP"}]
LONG = "a" * 256


def parse(spec: Any, kind: str = "CiliumNetworkPolicy", **more: Any) -> Parsed:
    metadata = {"name": "p", "generation": 7} | ({"namespace": "default"} if kind == "CiliumNetworkPolicy" else {})
    obj = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, **more}
    return read(obj if spec is None else {**obj, "spec": spec}, CONTEXT)


def rules(parsed: Parsed) -> list[Rule]:
    return [rule for policy in parsed.policies for rule in policy.rules]


def ingress(**entry: Any) -> dict[str, Any]:
    return {**SUBJECT, "ingress": [entry]}


def egress(**entry: Any) -> dict[str, Any]:
    return {**SUBJECT, "egress": [entry]}


def port(**one: Any) -> dict[str, Any]:
    return ingress(toPorts=[{"ports": [*NEVER, one]}])


def l7(rules: Any, *ports: dict[str, Any], **more: Any) -> dict[str, Any]:
    return egress(toPorts=[{"ports": list(ports), "rules": rules, **more}])


def icmp(*fields: Any) -> dict[str, Any]:
    return ingress(icmps=[{"fields": list(fields)}])


def peer(**selector: Any) -> dict[str, Any]:
    return ingress(fromEndpoints=[selector])


def expression(operator: Any, *values: Any, key: Any = "app") -> dict[str, Any]:
    return peer(matchExpressions=[{"key": key, "operator": operator, "values": list(values)}])


PORT = "spec.ingress[0].toPorts[0].ports[1]"
L7 = "spec.egress[0].toPorts[0]"
TCP = {"port": "80", "protocol": "TCP"}
UDP53 = {"port": "53", "protocol": "UDP"}
DNS = {"dns": [{"matchPattern": "*"}]}
HTTP = {"http": [{"method": "GET"}]}
BOTH_PEERS = [
    ("ingress", "fromEndpoints", [{}], "fromCIDR", ["10.0.0.0/8"]),
    ("ingress", "fromEntities", ["all"], "fromNodes", [{}]),
    ("ingress", "fromCIDRSet", [{"cidr": "10.0.0.0/8"}], "fromGroups", [{}]),
    ("egress", "toEndpoints", [{}], "toFQDNs", [{"matchName": "a.io"}]),
    ("egress", "toEntities", ["all"], "toServices", [{"k8sService": {"serviceName": "s"}}]),
    ("egress", "toCIDR", ["10.0.0.0/8"], "toCIDRSet", [{"cidr": "10.0.0.0/8"}]),
    ("egress", "toNodes", [{}], "toGroups", [{}]),
]
REFUSED = [
    (None, "spec", "empty policy"),
    ("spec", "spec", "must be an object"),
    ({**SUBJECT}, "spec", "must have at least one of ingress, ingressDeny, egress, egressDeny"),
    ({**SUBJECT, "ingress": [], "egress": None}, "spec", "must have at least one of ingress"),
    ({"ingress": [{}]}, "spec", "must have one of endpointSelector or nodeSelector"),
    ({**SUBJECT, "nodeSelector": {}, "ingress": [{}]}, "spec", "cannot have both endpointSelector and nodeSelector"),
    ({"nodeSelector": {}, "ingress": [{}]}, "spec.nodeSelector", "cannot have nodeSelector"),
    ({**SUBJECT, "ingress": {}}, "spec.ingress", "must be a list"),
    ({**SUBJECT, "ingress": [None]}, "spec.ingress[0]", "must be an object"),
    ({**SUBJECT, "ingress": [{}], "priority": 1}, "spec.priority", "is not a field of a rule"),
    (ingress(toEndpoints=[{}]), "spec.ingress[0].toEndpoints", "is not a field of an ingress rule"),
    ({**SUBJECT, "ingressDeny": [{"authentication": {}}]}, "spec.ingressDeny[0].authentication", "is not a field"),
    ({**SUBJECT, "egressDeny": [{"toFQDNs": []}]}, "spec.egressDeny[0].toFQDNs", "is not a field"),
    ({**SUBJECT, "ingressDeny": [{"toPorts": [{"rules": {}}]}]}, "spec.ingressDeny[0].toPorts[0].rules", "not a field"),
    *(
        ({**SUBJECT, side: [{one: first, two: second}]}, f"spec.{side}[0]", f"combining {one} and {two} is not supp")
        for side, one, first, two, second in BOTH_PEERS
    ),
    (ingress(fromEntities=["galaxy"]), "spec.ingress[0].fromEntities[0]", 'unsupported entity: "galaxy"'),
    (ingress(fromEntities=[["all"]]), "spec.ingress[0].fromEntities[0]", "unsupported entity"),
    (ingress(fromCIDR=[""]), "spec.ingress[0].fromCIDR[0]", "IP must be specified"),
    (ingress(fromCIDR=["10.0.0.1"]), "spec.ingress[0].fromCIDR[0]", "is not a CIDR"),
    (ingress(fromCIDR=["10.0.0.0/33"]), "spec.ingress[0].fromCIDR[0]", "is not a CIDR"),
    (ingress(fromCIDR=["fd00::/129"]), "spec.ingress[0].fromCIDR[0]", "is not a CIDR"),
    (ingress(fromCIDRSet=[{}]), "spec.ingress[0].fromCIDRSet[0]", "one of cidr, cidrGroupRef, cidrGroupSelector"),
    (
        ingress(fromCIDRSet=[{"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}]),
        "spec.ingress[0].fromCIDRSet[0]",
        "more than one of cidr, cidrGroupRef may not be set",
    ),
    (ingress(fromCIDRSet=[{"cidrGroupRef": 3}]), "spec.ingress[0].fromCIDRSet[0].cidrGroupRef", "must be the name"),
    (
        ingress(fromCIDRSet=[{"cidrGroupSelector": {"matchLabels": {"a:b:c": ""}}}]),
        "spec.ingress[0].fromCIDRSet[0].cidrGroupSelector.matchLabels",
        "is not a valid label key",
    ),
    *(
        (
            egress(toCIDRSet=[{"cidr": "10.1.0.0/16", "except": ["10.1.1.0/24", hole]}]),
            "spec.egress[0].toCIDRSet[0].except[1]",
            f"allow CIDR prefix 10.1.0.0/16 does not contain exclude CIDR prefix {hole}",
        )
        for hole in ("10.2.0.0/24", "10.0.0.0/8", "fd00::/64")
    ),
    (egress(toCIDRSet=[{"cidrGroupRef": "g", "except": ["x"]}]), "spec.egress[0].toCIDRSet[0].except[0]", "is not a C"),
    (port(), f"{PORT}.port", "port must be specified"),
    (port(port=""), f"{PORT}.port", "port must be specified"),
    (port(port=80), f"{PORT}.port", "must be a string"),
    (port(port="65536"), f"{PORT}.port", "unable to parse port"),
    (port(port="-1"), f"{PORT}.port", "unable to parse port"),
    (port(port="080"), f"{PORT}.port", "unable to parse port"),
    (port(port="a-name-over-15-c"), f"{PORT}.port", "is neither a port number nor a port name"),
    (port(port="a--b"), f"{PORT}.port", "is neither a port number nor a port name"),
    (port(port="80", endPort=70000), f"{PORT}.endPort", "must be a number in 0-65535"),
    (port(port="80", endPort="81"), f"{PORT}.endPort", "must be a number in 0-65535"),
    (port(port="80", protocol="ICMP"), f"{PORT}.protocol", 'invalid protocol "ICMP", must be one of TCP, UDP, SCTP'),
    (port(port="80", protocol=6), f"{PORT}.protocol", "invalid protocol 6"),
    (port(port="80", protocol="VRRP"), f"{PORT}.port", "port must be empty or 0"),
    (port(port="80", name="http"), f"{PORT}.name", "is not a field of a port"),
    (ingress(toPorts=[{"ports": NEVER * 41}]), "spec.ingress[0].toPorts[0].ports", "too many ports, the max is 40"),
    (ingress(toPorts=[7]), "spec.ingress[0].toPorts[0]", "must be an object"),
    (icmp(*[{"type": 8}] * 41), "spec.ingress[0].icmps[0].fields", "too many types, the max is 40"),
    (icmp({"type": 8}, {"type": 256}), "spec.ingress[0].icmps[0].fields[1].type", "must be a number in 0-255"),
    (icmp({"family": "IPv4"}), "spec.ingress[0].icmps[0].fields[0].type", "must be a number in 0-255"),
    (icmp({"type": "EchoRequestt"}), "spec.ingress[0].icmps[0].fields[0].type", "not found for IPv4"),
    (icmp({"type": "PacketTooBig"}), "spec.ingress[0].icmps[0].fields[0].type", "not found for IPv4"),
    (icmp({"type": 8, "family": "ipv4"}), "spec.ingress[0].icmps[0].fields[0].family", "wrong family"),
    (
        ingress(icmps=[{"fields": [{"type": 8}]}], toPorts=[{"ports": NEVER}]),
        "spec.ingress[0].icmps",
        "may only be present without toPorts",
    ),
    (
        ingress(toPorts=[{"ports": [UDP53], "rules": DNS}]),
        "spec.ingress[0].toPorts[0].rules.dns",
        "not supported on in",
    ),
    (l7(DNS), f"{L7}.ports", "port 53 must be specified for DNS rules"),
    (l7(DNS, {"port": "53", "endPort": 54}), f"{L7}.ports[0].endPort", "do not support port ranges"),
    (l7(DNS, {"port": "0"}), f"{L7}.ports[0].port", "can not be used when a port is 0"),
    (l7(HTTP, {"port": "0", "protocol": "TCP"}), f"{L7}.ports[0].port", "can not be used when a port is 0"),
    (l7(HTTP, {"port": "80"}), f"{L7}.ports[0].protocol", "can only apply to TCP (not ANY)"),
    (l7(HTTP, TCP, UDP53), f"{L7}.ports[1].protocol", "can only apply to TCP (not UDP)"),
    (l7(HTTP | DNS, TCP), f"{L7}.rules", "multiple L7 protocol rule types"),
    (l7({"l7": [{}]}, TCP), f"{L7}.rules.l7", "may only be specified when l7proto"),
    (l7({"grpc": []}, TCP), f"{L7}.rules.grpc", "is not a field of L7 rules"),
    (l7({"http": [{"verb": "GET"}]}, TCP), f"{L7}.rules.http[0].verb", "is not a field of an HTTP rule"),
    (l7({"dns": [{"matchName": "a b"}]}, UDP53), f"{L7}.rules.dns[0].matchName", "invalid characters in matchName"),
    (l7({"dns": [{"matchName": "*.a"}]}, UDP53), f"{L7}.rules.dns[0].matchName", "invalid characters in matchName"),
    (l7({"dns": [{"matchPattern": "a?"}]}, UDP53), f"{L7}.rules.dns[0].matchPattern", "invalid characters in matchP"),
    (l7({"dns": [{"matchPattern": LONG}]}, UDP53), f"{L7}.rules.dns[0].matchPattern", "the max is 255"),
    (l7({"dns": [{"matchRegex": "a"}]}, UDP53), f"{L7}.rules.dns[0].matchRegex", "is not a field"),
    (egress(toFQDNs=[{"matchName": LONG}]), "spec.egress[0].toFQDNs[0].matchName", "the max is 255"),
    (egress(toFQDNs=[{"matchName": 4}]), "spec.egress[0].toFQDNs[0].matchName", "invalid characters"),
    (
        egress(toFQDNs=[{"matchName": "a.io"}, {"matchName": "a.io", "matchPattern": "*"}]),
        "spec.egress[0].toFQDNs[1]",
        "only one of matchName or matchPattern",
    ),
    (egress(toPorts=[{"ports": NEVER, "serverNames": [""]}]), f"{L7}.serverNames[0]", "empty server name"),
    (l7(HTTP, TCP, serverNames=["a.io"]), f"{L7}.serverNames", "without TLS termination"),
    (l7(HTTP, TCP, listener={"name": "x"}), f"{L7}.listener", "is not allowed with L7 rules"),
    (ingress(toPorts=[{"listener": {}}]), "spec.ingress[0].toPorts[0].listener", "is not allowed on ingress"),
    (egress(authentication={"mode": "maybe"}), "spec.egress[0].authentication.mode", '"maybe" is not disabled'),
    (peer(matchLabels={"a b": "c"}), "spec.ingress[0].fromEndpoints[0].matchLabels", "is not a valid label key"),
    (peer(matchLabels={"k8s:any:b": "c"}), "spec.ingress[0].fromEndpoints[0].matchLabels", "is not a valid label key"),
    (peer(matchLabels={"k-8:b": "c"}), "spec.ingress[0].fromEndpoints[0].matchLabels", "is not a valid label key"),
    (peer(matchLabels={"a": "!"}), 'spec.ingress[0].fromEndpoints[0].matchLabels["a"]', "is not a valid label value"),
    (peer(labels={}), "spec.ingress[0].fromEndpoints[0].labels", "is not a field of a label selector"),
    (expression("In"), "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values", "must not be empty"),
    (expression("Exists", "b"), "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values", "must be empty"),
    (expression("Gt", "1"), "spec.ingress[0].fromEndpoints[0].matchExpressions[0].operator", "is not In, NotIn, Exi"),
    (
        expression("In", "b", key=None),
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].key",
        "is not a valid label",
    ),
    ({"endpointSelector": [], "ingress": [{}]}, "spec.endpointSelector", "must be an object"),
    (
        {"endpointSelector": {"matchLabels": {"a": 1}}, "ingress": [{}]},
        'spec.endpointSelector.matchLabels["a"]',
        "value",
    ),
    ({**ingress(), "enableDefaultDeny": True}, "spec.enableDefaultDeny", "must be an object"),
    ({**ingress(), "enableDefaultDeny": {"ingress": "no"}}, "spec.enableDefaultDeny.ingress", "must be true or false"),
    ({**ingress(), "log": {"value": "x" * 33}}, "spec.log.value", "at most 32 printable"),
    ({**ingress(), "log": {"value": "a\nb"}}, "spec.log.value", "at most 32 printable"),
    ({**ingress(), "labels": ["a=b"]}, "spec.labels[0]", "must be an object"),
    ({**ingress(), "description": 3}, "spec.description", "must be a string"),
    (
        egress(toServices=[{"k8sService": {"serviceName": []}}]),
        "spec.egress[0].toServices[0].k8sService.serviceName",
        "must be a string",
    ),
    (egress(toServices=["s"]), "spec.egress[0].toServices[0]", "must be an object"),
    (
        egress(toServices=[{"k8sServiceSelector": {"namespace": "n"}}]),
        "spec.egress[0].toServices[0].k8sServiceSelector.selector",
        "must be an object",
    ),
]


@pytest.mark.parametrize(("spec", "field", "gist"), REFUSED, ids=[f"{number}" for number in range(len(REFUSED))])
def test_what_its_owner_refuses_is_invalid_and_says_where_and_why(spec: Any, field: str, gist: str):
    parsed = parse(spec)

    found = [problem for problem in parsed.problems if problem.field == field and gist in problem.message]
    assert [problem.grade for problem in found] == [Grade.INVALID], parsed.problems
    assert not parsed.valid
    assert parsed.generation == 7


ISOLATING = [
    (spec, field) for spec, field, _ in REFUSED if isinstance(spec, dict) and set(spec) & {"ingress", "egress"}
]


@pytest.mark.parametrize(("spec", "field"), ISOLATING, ids=[f"{number}" for number in range(len(ISOLATING))])
def test_what_is_invalid_still_isolates_the_pods_it_is_about_and_opens_nothing_to_all(spec: Any, field: str):
    if spec.get("nodeSelector") is not None and "endpointSelector" not in spec:
        return  # about no pods
    directions = {one for one in Direction if spec.get(one.value) is not None}
    (policy,) = parse(spec).policies

    assert policy.isolates >= directions
    # The good port beside a bad one stays; nothing is allowed on any port to anyone.
    assert not any(rule.peers is None and rule.ports is None and rule.action is Action.ALLOW for rule in policy.rules)


UNENFORCED = [
    (l7(HTTP, TCP), f"{L7}.rules.http"),
    (l7({"kafka": [{}]}, TCP), f"{L7}.rules.kafka"),
    (l7({"l7proto": "cassandra", "l7": [{}]}, TCP), f"{L7}.rules.l7proto"),
    (l7({"dns": [{"matchName": "a.io"}]}, UDP53), f"{L7}.rules.dns"),
    (l7({"dns": [{}]}, UDP53), f"{L7}.rules.dns"),
    (l7({"dns": []}, UDP53), f"{L7}.rules.dns"),
    (l7({}, TCP, serverNames=["a.io"]), f"{L7}.serverNames"),
    (l7({}, TCP, terminatingTLS={"secret": {}}), f"{L7}.terminatingTLS"),
    (l7({}, TCP, originatingTLS={"secret": {}}), f"{L7}.originatingTLS"),
    (l7({}, TCP, listener={"name": "x"}), f"{L7}.listener"),
    (egress(toPorts=[{"ports": NEVER}], authentication={"mode": "required"}), "spec.egress[0].authentication"),
    (ingress(fromEntities=["all"], authentication={"mode": "test-always-fail"}), "spec.ingress[0].authentication"),
    (ingress(fromGroups=[{"aws": {}}]), "spec.ingress[0].fromGroups"),
    (egress(toGroups=[{"aws": {}}], toPorts=[{"ports": NEVER}]), "spec.egress[0].toGroups"),
    (ingress(fromRequires=["x"], fromEntities=["all"]), "spec.ingress[0].fromRequires"),
    (egress(toRequires=[{}], toEntities=["all"]), "spec.egress[0].toRequires"),
    (peer(matchLabels={"container:id": "x"}), "spec.ingress[0].fromEndpoints[0]"),
    (peer(matchLabels={"reserved:all": ""}), "spec.ingress[0].fromEndpoints[0]"),
    (peer(matchLabels={"reserved:world-ipv4": ""}), "spec.ingress[0].fromEndpoints[0]"),
    (ingress(fromNodes=[{"matchLabels": {"fqdn:x": ""}}]), "spec.ingress[0].fromNodes[0]"),
    (ingress(fromCIDRSet=[{"cidrGroupRef": "bad"}]), "spec.ingress[0].fromCIDRSet[0].cidrGroupRef"),
]


@pytest.mark.parametrize(("spec", "field"), UNENFORCED, ids=[f"{number}" for number in range(len(UNENFORCED))])
def test_what_cannot_be_done_is_valid_says_so_and_allows_nothing(spec: Any, field: str):
    parsed = parse(spec)

    assert parsed.valid
    assert [problem.field for problem in parsed.problems if problem.grade is Grade.UNENFORCED] == [field]
    assert rules(parsed) == []
    assert parsed.policies[0].isolates == {one for one in Direction if one.value in spec}


def test_one_demand_that_is_not_enforced_closes_all_of_its_direction():
    spec = {
        **SUBJECT,
        "ingress": [{"fromEntities": ["world"]}, {"fromRequires": [{}]}],
        "egress": [{"toEntities": ["all"]}],
    }

    assert [rule.direction for rule in rules(parse(spec))] == [Direction.EGRESS]


def test_names_without_a_proxy_stay_in_the_rule_and_are_reported():
    parsed = parse(egress(toFQDNs=[{"matchName": "a.io"}]))

    assert [(problem.field, problem.grade) for problem in parsed.problems] == [
        ("spec.egress[0].toFQDNs", Grade.UNENFORCED)
    ]
    assert [str(peer) for rule in rules(parsed) for peer in rule.peers or ()] == ["names a.io"]


def test_policies_for_nodes_are_reported_and_make_no_policy_for_pods():
    parsed = parse({"nodeSelector": {}, "ingress": [{}]}, "CiliumClusterwideNetworkPolicy")

    assert parsed.valid
    assert [(problem.field, problem.grade) for problem in parsed.problems] == [("spec.nodeSelector", Grade.UNENFORCED)]
    assert parsed.policies == ()


def test_policies_for_nodes_cannot_have_rules_above_ports():
    parsed = parse(
        {"nodeSelector": {}, "ingress": [{"toPorts": [{"ports": NEVER, "rules": HTTP}]}]},
        "CiliumClusterwideNetworkPolicy",
    )

    assert ("spec.ingress", Grade.INVALID) in [(problem.field, problem.grade) for problem in parsed.problems]
    assert parsed.policies == ()


ACCEPTED = [
    {**SUBJECT, "ingress": [{}]},
    {**SUBJECT, "ingress": [], "egress": [{}]},
    ingress(fromEndpoints=[{}], fromCIDR=[]),
    port(port="80", protocol="tcp"),
    port(port="80", endPort=79),
    port(port="http", endPort=81),
    port(port="HTTP"),
    port(port="65535", endPort=65535),
    l7(DNS, {"port": "dns", "endPort": 54}),
    l7(DNS, {"port": "53", "endPort": 53}),
    port(port="80", protocol=""),
    port(protocol="GRE"),
    port(port="0", protocol="VRRP"),
    icmp({"type": "8"}, {"type": "Echo"}, {"type": "PacketTooBig", "family": "IPv6"}),
    icmp(),
    l7(DNS, {"port": "5353"}),
    l7({"dns": [{"matchPattern": "*."}]}, UDP53),
    l7({}, {"port": "53"}),
    egress(authentication={"mode": "disabled"}, toEntities=["world"]),
    {**SUBJECT, "ingress": [{}], "labels": [{"key": "a", "value": "b", "source": "c"}], "description": "d"},
    {**SUBJECT, "ingress": [{}], "log": {"value": "x" * 32}},
    {**SUBJECT, "ingress": [{}], "enableDefaultDeny": {"ingress": None}},
    ingress(fromCIDR=["10.0.0.1/8"]),
    egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]),
    ingress(fromEntities=["world-ipv4", "world-ipv6", "remote-node", "kube-apiserver", "none"]),
]


@pytest.mark.parametrize("spec", ACCEPTED, ids=[f"{number}" for number in range(len(ACCEPTED))])
def test_what_its_owner_accepts_is_accepted_without_a_word(spec: Any):
    assert parse(spec).problems == ()


WARNED = [
    (egress(toFQDNs=[], toPorts=[{"ports": NEVER}]), "spec.egress[0].toFQDNs", "is empty"),
    (egress(toGroups=[], toPorts=[{"ports": NEVER}]), "spec.egress[0].toGroups", "is empty"),
    (egress(toServices=[], toPorts=[{"ports": NEVER}]), "spec.egress[0].toServices", "is empty"),
    (egress(toServices=[{}]), "spec.egress[0].toServices[0]", "selects nothing"),
    (
        egress(toServices=[{"k8sService": {"serviceName": "s"}}], toPorts=[{"ports": NEVER}]),
        "spec.egress[0].toServices[0]",
        "selects nothing",
    ),
    (ingress(fromCIDRSet=[{"cidrGroupRef": "gone"}]), "spec.ingress[0].fromCIDRSet[0].cidrGroupRef", "selects nothing"),
    (ingress(fromEntities=["health"]), "spec.ingress[0].fromEntities[0]", "selects nothing"),
    ({"endpointSelector": {"matchLabels": {"container:id": "x"}}, "ingress": [{}]}, "spec.endpointSelector", "no such"),
    (ingress(fromRequires=[]), "spec.ingress[0].fromRequires", "is ignored"),
    (
        {"endpointSelector": {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}}, "ingress": [{}]},
        "spec.endpointSelector.matchLabels",
        "is ignored",
    ),
]


@pytest.mark.parametrize(("spec", "field", "gist"), WARNED, ids=[f"{number}" for number in range(len(WARNED))])
def test_what_may_not_be_meant_is_a_warning_and_allows_nothing_more(spec: Any, field: str, gist: str):
    parsed = parse(spec)

    ((found),) = parsed.problems
    assert (found.field, found.grade) == (field, Grade.WARNING)
    assert gist in found.message
    # An entity that nothing has is a peer all the same.
    assert [rule for rule in rules(parsed) if rule.peers is None] == []


DENIALS = [
    ({"fromEndpoints": [{"matchLabels": {"a": "!"}}], "toPorts": [{"ports": NEVER}]}, False, True),
    ({"fromGroups": [{}], "toPorts": [{"ports": NEVER}]}, False, True),
    ({"fromCIDRSet": [{"cidrGroupRef": "bad"}]}, False, False),
    ({"fromEntities": ["galaxy"]}, False, False),
    ({"fromEntities": ["world"], "toPorts": [{"ports": [{"port": "x y"}]}]}, True, False),
    ({"fromEntities": ["world"], "icmps": [{"fields": [{"type": 999}]}]}, True, False),
    ({"fromEndpoints": [{}], "fromCIDR": ["10.0.0.0/8"], "toPorts": [{"ports": NEVER}]}, False, True),
    ({"fromNames": ["x"]}, False, False),
    ("everything", False, False),
]


@pytest.mark.parametrize(("entry", "peers", "ports"), DENIALS, ids=[f"{number}" for number in range(len(DENIALS))])
def test_a_denial_that_is_not_understood_denies_more_never_less(entry: Any, peers: bool, ports: bool):
    (rule,) = rules(parse({**SUBJECT, "ingressDeny": [entry]}))

    assert (rule.action, rule.peers is not None, rule.ports is not None) == (Action.DENY, peers, ports)


@pytest.mark.parametrize("entry", [{}, {"fromEndpoints": []}, {"fromEntities": ["all"], "toPorts": [{}]}])
def test_a_denial_of_nothing_denies_nothing(entry: Any):
    parsed = parse({**SUBJECT, "ingressDeny": [entry]})

    assert parsed.problems == ()
    assert rules(parsed) == []
    assert parsed.policies[0].isolates == {Direction.INGRESS}


def test_the_second_of_several_rules_is_named_by_its_place():
    parsed = parse(None, specs=[ingress(fromEntities=["all"]), port(port="x y"), ingress(fromEntities=["galaxy"])])

    assert [problem.field for problem in parsed.problems] == [
        "specs[1].ingress[0].toPorts[0].ports[1].port",
        "specs[2].ingress[0].fromEntities[0]",
    ]
    assert [(policy.ref.part, policy.valid) for policy in parsed.policies] == [(0, True), (1, False), (2, False)]


@pytest.mark.parametrize(("spec", "more"), [("x", {}), (None, {"specs": "x"}), (None, {"specs": [3]})])
def test_a_rule_that_cannot_be_read_isolates_every_pod_of_the_namespace(spec: Any, more: Any):
    (policy,) = parse(spec, **more).policies

    assert (policy.namespace, str(policy.subject), policy.rules) == ("default", "endpoints (all)", ())
    assert policy.isolates == set(Direction)


@pytest.mark.parametrize(
    ("metadata", "kind"), [({"namespace": "x"}, "CiliumNetworkPolicy"), ({}, "CiliumClusterwideNetworkPolicy")]
)
def test_an_item_of_a_list_is_known_by_its_namespace(metadata: Any, kind: str):
    parsed = read({"metadata": {"name": "p", **metadata}, "spec": {**SUBJECT, "ingress": [{}]}}, CONTEXT)

    assert parsed.problems == ()
    assert (parsed.ref.kind, parsed.ref.namespace) == (kind, metadata.get("namespace", ""))


@pytest.mark.parametrize("bad", ["x", None, {"fromEntities": ["galaxy"]}, {"unknown": 1}, {"fromCIDR": ["x"]}])
def test_a_bad_entry_leaves_the_others_in_force(bad: Any):
    (rule,) = rules(parse({**SUBJECT, "ingress": [bad, {"fromEntities": ["world"]}]}))

    assert (rule.index, rule.field) == (1, "spec.ingress[1]")


def test_all_is_no_condition():
    (rule,) = rules(parse(ingress(fromEntities=["world", "all"])))

    assert (rule.peers, rule.ports) == (None, None)


@pytest.mark.parametrize("metadata", [None, {}, {"name": ""}, {"namespace": "x"}, {"name": "x"}])
def test_an_object_without_a_name_cannot_be_read(metadata: Any):
    with pytest.raises(ValueError, match="metadata"):
        read({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": {}}, CONTEXT)
