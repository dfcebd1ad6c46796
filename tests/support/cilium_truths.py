"""Truth tables of Cilium policy beyond the collected vectors, in their form (reference: cilium-policy §6)."""

from collections.abc import Iterable
from typing import Any

from tests.support.cilium_cases import Case

A, D = "allow", "deny"
DEFAULT, EXPLICIT = "default-deny", "explicit"

FOUR = [
    {"id": "a", "cluster": "c1", "ns": "default", "labels": {"app": "a"}},
    {"id": "b", "cluster": "c1", "ns": "default", "labels": {"app": "b"}},
    {"id": "n", "cluster": "c1", "ns": "other", "labels": {"app": "b"}},
    {"id": "r", "cluster": "c2", "ns": "default", "labels": {"app": "b"}},
]
WORLD = [
    {"id": "w", "kind": "world", "ip": "8.8.8.8"},
    {"id": "h", "kind": "host", "ip": "172.18.0.2"},
    {"id": "far", "kind": "remote-node", "ip": "172.19.0.2", "cluster": "c2", "labels": {"zone": "far"}},
    {"id": "near", "kind": "remote-node", "ip": "172.18.0.3", "cluster": "c1", "labels": {"zone": "near"}},
]
CLUSTER = "io.cilium.k8s.policy.cluster"
NAMESPACE = "io.kubernetes.pod.namespace"


def cnp(spec: dict[str, Any], *, cluster: str = "c1", ns: str = "default") -> dict[str, Any]:
    return {"kind": "CiliumNetworkPolicy", "cluster": cluster, "ns": ns, "spec": spec}


def ccnp(spec: dict[str, Any], *, cluster: str = "c1") -> dict[str, Any]:
    return {"kind": "CiliumClusterwideNetworkPolicy", "cluster": cluster, "spec": spec}


def flow(text: str, expect: str) -> dict[str, Any]:
    """Reads `from to port[/proto]`, and `allow`, `deny`, or `deny side/reason`."""
    source, target, where = text.split()
    port, _, proto = where.partition("/")
    verdict, _, why = expect.partition(" ")
    found = {"from": source, "to": target, "port": int(port), "proto": proto or "TCP", "expect": verdict}
    return found | ({"why": why} if why else {})


def case(
    name: str,
    policies: Iterable[dict[str, Any]],
    flows: dict[str, str],
    *,
    local: bool = True,
    pods: Iterable[dict[str, Any]] = (),
    **more: Any,
) -> Case:
    return Case(
        {
            "id": name,
            "options": {"policyDefaultLocalCluster": local},
            "pods": list(pods) or FOUR,
            "externals": WORLD,
            "policies": list(policies),
            "flows": [flow(text, expect) for text, expect in flows.items()],
            **more,
        }
    )


def to_a(*ingress: Any, **more: Any) -> dict[str, Any]:
    return cnp({"endpointSelector": {"matchLabels": {"app": "a"}}, "ingress": list(ingress), **more})


def from_a(*egress: Any, **more: Any) -> dict[str, Any]:
    return cnp({"endpointSelector": {"matchLabels": {"app": "a"}}, "egress": list(egress), **more})


def labels(**wanted: str) -> dict[str, Any]:
    return {"matchLabels": wanted}


def ports(*numbers: str | dict[str, Any]) -> list[dict[str, Any]]:
    return [{"ports": [{"port": one, "protocol": "TCP"} if isinstance(one, str) else one for one in numbers]}]


def ingress_table(name: str, ingress: list[Any], row: str) -> Case:
    """T13: `row` is the verdicts for b, n, r, w, h on port 80."""
    verdicts = dict(zip("bnrwh", row, strict=True))
    words = {"A": A, "D": f"{D} ingress/{DEFAULT}"}
    return case(name, [to_a(*ingress)], {f"{peer} a 80": words[verdict] for peer, verdict in verdicts.items()})


SHIPS = [
    {"id": f"{name}-{cluster[0]}", "cluster": cluster, "ns": "default", "labels": {"name": name}}
    for cluster in ("koornacht", "tion")
    for name in ("x-wing", "rebel-base")
]
DENY_ALL = {"endpointSelector": {}, "ingress": [{}], "egress": [{}]}
SEEDS = [
    *(cnp(DENY_ALL, cluster=cluster) for cluster in ("koornacht", "tion")),
    cnp(
        {
            "endpointSelector": labels(name="x-wing", **{CLUSTER: "koornacht"}),
            "egress": [
                {
                    "toEndpoints": [
                        labels(name="rebel-base") | {"matchExpressions": [{"key": CLUSTER, "operator": "Exists"}]}
                    ]
                }
            ],
        },
        cluster="koornacht",
    ),
    *(
        cnp(
            {
                "endpointSelector": labels(name="rebel-base"),
                "ingress": [{"fromEndpoints": [labels(name="x-wing", **{CLUSTER: "koornacht"})]}],
            },
            cluster=cluster,
        )
        for cluster in ("koornacht", "tion")
    ),
]
SHOP = [
    {"id": f"{short}{number}", "cluster": f"cluster{number}", "ns": "default", "labels": {"app": app}}
    for number in (1, 2, 3)
    for short, app in (("fe", "frontend"), ("be", "backend"))
]
CLIENT = [
    {"id": "client", "cluster": "c1", "ns": "default", "labels": {"app": "client"}},
    {"id": "server", "cluster": "c1", "ns": "default", "labels": {"app": "server"}},
]
METADATA = "169.254.169.254/32"
EXISTS = {"key": CLUSTER, "operator": "Exists"}
ANY_NAMESPACE = {"key": NAMESPACE, "operator": "Exists"}
DNS_PODS = [
    {"id": "dns", "cluster": "c1", "ns": "kube-system", "labels": {"k8s-app": "kube-dns"}},
    {"id": "p", "cluster": "c1", "ns": "x", "labels": {"app": "p"}},
    {"id": "rp", "cluster": "c2", "ns": "x", "labels": {"app": "p"}},
]
CLIENTS_OF_DNS = ccnp(
    {
        "endpointSelector": labels(**{f"k8s:{NAMESPACE}": "kube-system", "k8s-app": "kube-dns"}),
        "ingress": [{"fromEndpoints": [{}], "toPorts": ports({"port": "53", "protocol": "UDP"})}],
    }
)
NAMES = [
    {"id": "one", "kind": "world", "ip": "198.51.100.1", "names": ["cilium.io"]},
    {"id": "two", "kind": "world", "ip": "198.51.100.2", "names": ["special-region1-service.api.cilium.io"]},
    {"id": "three", "kind": "world", "ip": "198.51.100.3", "names": ["anothersub.cilium.io"]},
    {"id": "four", "kind": "world", "ip": "198.51.100.4"},
]


def deny_table(name: str, *, allow: bool, port: bool, peer: bool, row: str) -> Case:
    """T14: `row` is the verdicts for 81/TCP, 80/TCP and ping."""
    spec: dict[str, Any] = {"endpointSelector": labels(app="server")}
    if allow:
        spec["ingress"] = [
            {"toPorts": ports("80")},
            {"toPorts": ports("81")},
            {"fromEndpoints": [labels(app="client")]},
        ]
    denied: list[Any] = [{"toPorts": ports("80")}] if port else []
    denied += [{"fromEndpoints": [labels(app="client")]}] if peer else []
    spec["ingressDeny"] = denied
    verdicts = zip(("81", "80", "8/ICMP"), row, strict=True)
    return case(
        name,
        [cnp(spec)],
        {
            f"client server {where}": {"A": A, "E": f"{D} ingress/{EXPLICIT}", "D": f"{D} ingress/{DEFAULT}"}[one]
            for where, one in verdicts
        },
        pods=CLIENT,
    )


TRUTHS = [
    case(
        "t6-seed-with-cluster-exists",
        SEEDS,
        {
            "x-wing-k rebel-base-k 80": A,
            "x-wing-k rebel-base-t 80": A,
            "x-wing-t rebel-base-k 80": D,
            "x-wing-t rebel-base-t 80": f"{D} egress/{DEFAULT}",
        },
        pods=SHIPS,
    ),
    case(
        "t10-cluster-mesh-entity",
        [from_a({"toEntities": ["cluster-mesh"]})],
        {"a b 80": A, "a n 80": A, "a r 80": A, "a h 80": A, "a far 80": A, "a w 80": f"{D} egress/{DEFAULT}"},
        local=False,
    ),
    *(
        case(
            f"t9-cluster-entity-ignores-the-scope-{local}",
            [from_a({"toEntities": ["cluster"]})],
            {"a n 80": A, "a r 80": D, "a h 80": A, "a far 80": A, "a w 80": D},
            local=local,
        )
        for local in (True, False)
    ),
    case(
        "t11-any-namespace-of-another-cluster",
        [from_a({"toEndpoints": [labels(**{CLUSTER: "c2"}) | {"matchExpressions": [ANY_NAMESPACE]}]})],
        {"a r 80": A, "a b 80": D, "a n 80": D, "a s 80": A},
        pods=[*FOUR, {"id": "s", "cluster": "c2", "ns": "third", "labels": {"app": "s"}}],
    ),
    case(
        "t12-network-policy-under-local",
        [
            {
                "kind": "NetworkPolicy",
                "cluster": "cluster2",
                "ns": "default",
                "spec": {
                    "podSelector": labels(app="backend"),
                    "ingress": [{"from": [{"podSelector": labels(app="frontend")}]}],
                },
            }
        ],
        {"fe2 be2 80": A, "fe1 be2 80": f"{D} ingress/{DEFAULT}"},
        pods=SHOP,
    ),
    ingress_table("t13-one-empty-entry", [{}], "DDDDA"),
    ingress_table("t13-no-endpoints", [{"fromEndpoints": []}], "DDDDA"),
    ingress_table("t13-no-endpoints-with-ports", [{"fromEndpoints": [], "toPorts": ports("80")}], "DDDDA"),
    ingress_table("t13-no-entities-with-ports", [{"fromEntities": [], "toPorts": ports("80")}], "DDDDA"),
    ingress_table("t13-no-cidr-with-ports", [{"fromCIDR": [], "toPorts": ports("80")}], "DDDDA"),
    ingress_table("t13-no-cidr-set-with-ports", [{"fromCIDRSet": [], "toPorts": ports("80")}], "DDDDA"),
    ingress_table("t13-no-nodes-with-ports", [{"fromNodes": [], "toPorts": ports("80")}], "DDDDA"),
    ingress_table("t13-no-groups-with-ports", [{"fromGroups": [], "toPorts": ports("80")}], "DDDDA"),
    ingress_table("t13-every-endpoint", [{"fromEndpoints": [{}]}], "ADDDA"),
    ingress_table("t13-ports-alone", [{"toPorts": ports("80")}], "AAAAA"),
    ingress_table("t13-null-peers-and-ports", [{"fromEndpoints": None, "toPorts": ports("80")}], "AAAAA"),
    ingress_table("t13-no-ports", [{"fromEndpoints": [{}], "toPorts": []}], "ADDDA"),
    ingress_table("t13-null-ports", [{"fromEndpoints": [{}], "toPorts": None}], "ADDDA"),
    ingress_table("t13-empty-port-rule", [{"fromEndpoints": [{}], "toPorts": [{}]}], "DDDDA"),
    ingress_table("t13-port-rule-without-ports", [{"fromEndpoints": [{}], "toPorts": [{"ports": []}]}], "DDDDA"),
    ingress_table("t13-all", [{"fromEntities": ["all"]}], "AAAAA"),
    ingress_table("t13-union", [{}, {"fromEndpoints": [labels(app="b")]}], "ADDDA"),
    ingress_table("t13-nothing-beside-all", [{"fromEntities": ["none", "all"]}], "AAAAA"),
    ingress_table("t13-none", [{"fromEntities": ["none"]}], "DDDDA"),
    ingress_table("t13-words-for-what-is-not-here", [{"fromEntities": ["init", "health", "ingress"]}], "DDDDA"),
    ingress_table("t13-cluster-exists", [{"fromEndpoints": [{"matchExpressions": [EXISTS]}]}], "ADADA"),
    ingress_table("t13-namespace-exists", [{"fromEndpoints": [{"matchExpressions": [ANY_NAMESPACE]}]}], "AADDA"),
    ingress_table("t13-both-exist", [{"fromEndpoints": [{"matchExpressions": [EXISTS, ANY_NAMESPACE]}]}], "AAADA"),
    deny_table("t14-allowed", allow=True, port=False, peer=False, row="AAA"),
    deny_table("t14-port-denied", allow=True, port=True, peer=False, row="AEA"),
    deny_table("t14-peer-denied", allow=True, port=False, peer=True, row="EEE"),
    deny_table("t14-both-denied", allow=True, port=True, peer=True, row="EEE"),
    deny_table("t14-port-denied-nothing-allowed", allow=False, port=True, peer=False, row="DED"),
    case(
        "t16-except-is-no-denial",
        [from_a({"toCIDRSet": [{"cidr": "8.0.0.0/8", "except": ["8.8.8.8/32"]}]}, {"toCIDR": ["8.8.0.0/16"]})],
        {"a w 443": A, "a b 80": D, "a h 80": D},
    ),
    case(
        "t17-denial-without-default-deny",
        [
            cnp(
                {
                    "endpointSelector": labels(app="a"),
                    "enableDefaultDeny": {"egress": False},
                    "egressDeny": [{"toCIDR": ["8.8.8.8/32"]}],
                }
            )
        ],
        {"a w 443": f"{D} egress/{EXPLICIT}", "a b 80": A, "a h 80": A},
    ),
    case(
        "t17-another-policy-restores-default-deny",
        [
            cnp(
                {
                    "endpointSelector": labels(app="a"),
                    "enableDefaultDeny": {"egress": False},
                    "egressDeny": [{"toCIDR": ["8.8.8.8/32"]}],
                }
            ),
            from_a({"toEndpoints": [labels(app="b")]}),
        ],
        {"a w 443": f"{D} egress/{EXPLICIT}", "a b 80": A, "a n 80": f"{D} egress/{DEFAULT}"},
    ),
    case(
        "t18-every-pod-of-every-cluster",
        [CLIENTS_OF_DNS],
        {"p dns 53/UDP": A, "rp dns 53/UDP": A, "p dns 53/TCP": f"{D} ingress/{DEFAULT}", "w dns 53/UDP": D},
        local=False,
        pods=DNS_PODS,
    ),
    case(
        "t20-ports",
        [
            to_a(
                {
                    "toPorts": ports(
                        {"port": "80", "endPort": 444, "protocol": "TCP"},
                        {"port": "5000"},
                        {"port": "HTTP", "protocol": "tcp"},
                        {"port": "0", "protocol": "SCTP"},
                        {"port": "7000", "endPort": 6500, "protocol": "TCP"},
                    )
                }
            )
        ],
        {
            "b a 80": A,
            "b a 444": A,
            "b a 445": D,
            "b a 80/UDP": D,
            "b a 5000": A,
            "b a 5000/UDP": A,
            "b a 5000/SCTP": A,
            "b a 8/ICMP": f"{D} ingress/{DEFAULT}",
            "b a 8080": A,
            "b a 8080/UDP": D,
            "b a 9/SCTP": A,
            "b a 7000": A,
            "b a 6500": D,
        },
        pods=[{**FOUR[0], "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}, *FOUR[1:]],
    ),
    case(
        "t20-named-port-of-each-peer",
        [from_a({"toEndpoints": [{}], "toPorts": ports({"port": "http"})})],
        {"a b 8080": A, "a b 9090": D, "a c 9090": A, "a c 8080": D, "a d 8080": D},
        pods=[
            FOUR[0],
            {**FOUR[1], "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]},
            {**FOUR[1], "id": "c", "ports": [{"name": "http", "port": 9090, "protocol": "TCP"}]},
            {**FOUR[1], "id": "d"},
        ],
    ),
    case(
        "t21-icmp-types",
        [to_a({"icmps": [{"fields": [{"type": 8}, {"type": "EchoRequest", "family": "IPv6"}]}]})],
        {"b a 8/ICMP": A, "b a 13/ICMP": D, "b a 80": D, "b a 128/ICMPV6": A, "b a 129/ICMPV6": D},
    ),
    case(
        "t22-absent-keys",
        [
            to_a(
                {
                    "fromEndpoints": [
                        {
                            "matchExpressions": [
                                {"key": "env", "operator": "NotIn", "values": ["prod"]},
                                {"key": "k8s:tier", "operator": "DoesNotExist"},
                            ]
                        }
                    ]
                }
            )
        ],
        {"b a 80": A, "p a 80": D, "t a 80": D, "w a 80": D},
        pods=[
            *FOUR,
            {"id": "p", "cluster": "c1", "ns": "default", "labels": {"env": "prod"}},
            {"id": "t", "cluster": "c1", "ns": "default", "labels": {"tier": "x"}},
        ],
    ),
    case(
        "t22-foreign-namespace-selects-nothing",
        [
            cnp({"endpointSelector": labels(**{NAMESPACE: "other"}), "ingress": [{}]}),
            cnp({"endpointSelector": labels(**{f"any:{NAMESPACE}": "other"}), "egress": [{}]}),
        ],
        {"b a 80": A, "b n 80": A, "a w 80": A},
    ),
    case(
        "t22-source-of-a-key",
        [to_a({"fromEndpoints": [labels(**{"k8s:app": "b"}), labels(**{"any:app": "c"})]})],
        {"b a 80": A, "c a 80": A, "d a 80": D},
        pods=[
            *FOUR,
            {"id": "c", "cluster": "c1", "ns": "default", "labels": {"app": "c"}},
            {"id": "d", "cluster": "c1", "ns": "default", "labels": {"app": "d"}},
        ],
    ),
    case(
        "t23-names",
        [
            from_a(
                {
                    "toFQDNs": [{"matchName": "cilium.io"}, {"matchPattern": "special*service.api.cilium.io"}],
                    "toPorts": ports("80"),
                }
            )
        ],
        {
            "a one 80": A,
            "a one 443": f"{D} egress/{DEFAULT}",
            "a two 80": A,
            "a three 80": D,
            "a four 80": D,
            "a b 80": D,
        },
        externals=[*WORLD, *NAMES],
    ),
    case(
        "t25-world-denied-for-a-whole-cluster",
        [
            ccnp(
                {
                    "endpointSelector": {},
                    "egress": [{"toEntities": ["all"]}],
                    "egressDeny": [{"toEntities": ["world"]}],
                }
            )
        ],
        {
            "a w 443": f"{D} egress/{EXPLICIT}",
            "n w 443": f"{D} egress/{EXPLICIT}",
            "r w 443": A,
            "a r 80": A,
            "a far 80": A,
            "a h 80": A,
        },
    ),
    case(
        "world-of-one-family",
        [from_a({"toEntities": ["world-ipv4"]}), to_a({"fromEntities": ["world-ipv6"]})],
        {"a w 443": A, "a b 80": D, "w a 80": D, "a far 80": D},
    ),
    case(
        "nodes-are-never-the-own-one",
        [from_a({"toNodes": [{}]}), to_a({"fromNodes": [labels(zone="far")]})],
        {"a far 80": A, "a near 80": A, "a h 80": D, "a b 80": D, "a w 80": D, "far a 80": A, "near a 80": D},
        local=False,
    ),
    case(
        "nodes-of-the-own-cluster-under-local",
        [from_a({"toNodes": [{}, labels(**{CLUSTER: "c2", "zone": "far"})]}), to_a({"fromNodes": [{}]})],
        {"a near 80": A, "a far 80": A, "near a 80": A, "far a 80": D},
    ),
    case(
        "remote-nodes-are-not-the-host",
        [from_a({"toEntities": ["remote-node"]}), to_a({"fromEntities": ["none"]})],
        {"a far 80": A, "a h 80": D, "far a 80": f"{D} ingress/{DEFAULT}", "h a 80": A},
    ),
    case(
        "several-rules-of-one-object",
        [
            {
                "kind": "CiliumNetworkPolicy",
                "cluster": "c1",
                "ns": "default",
                "spec": {"endpointSelector": labels(app="a"), "ingress": [{"fromEndpoints": [labels(app="c")]}]},
                "specs": [
                    {"endpointSelector": labels(app="a"), "ingress": [{"toPorts": ports("81")}]},
                    {"endpointSelector": labels(app="b"), "egressDeny": [{"toCIDR": ["8.8.8.8/32"]}]},
                ],
            }
        ],
        {
            "n a 80": D,
            "r a 81": A,
            "w a 81": A,
            "w a 80": D,
            "b w 80": f"{D} egress/{EXPLICIT}",
            "b n 9": D,
            "a b 9": A,
        },
    ),
    case(
        "services",
        [
            from_a(
                {"toServices": [{"k8sService": {"serviceName": "b"}}], "toPorts": ports("80")},
                {"toServices": [{"k8sServiceSelector": {"selector": labels(kind="outside"), "namespace": "other"}}]},
            )
        ],
        {"a b 80": A, "a b 81": D, "a n 80": D, "a r 80": D, "a w 9": A, "a far 9": D},
        services=[
            {"ns": "default", "name": "b", "selector": {"app": "b"}},
            {"ns": "other", "name": "out", "labels": {"kind": "outside"}, "addresses": ["8.8.8.8", "172.19.0.2"]},
            {"ns": "default", "name": "out", "labels": {"kind": "outside"}, "addresses": ["9.9.9.9"]},
        ],
    ),
    case(
        "services-of-every-cluster",
        [from_a({"toServices": [{"k8sService": {"serviceName": "b", "namespace": "default"}}]})],
        {"a b 80": A, "a r 80": A, "a n 80": D},
        local=False,
        services=[{"ns": "default", "name": "b", "selector": {"app": "b"}}],
    ),
    case(
        "groups-of-cidrs",
        [
            from_a(
                {"toCIDRSet": [{"cidrGroupRef": "google", "except": ["8.8.8.8/32"]}]},
                {"toCIDRSet": [{"cidrGroupSelector": labels(tier="dns")}]},
                egressDeny=[{"toCIDRSet": [{"cidrGroupRef": "bad"}, {"cidrGroupRef": "gone"}]}],
            )
        ],
        {"a w 443": D, "a quad 443": A, "a other 443": A, "a worse 443": f"{D} egress/{EXPLICIT}"},
        externals=[
            *WORLD,
            {"id": "quad", "kind": "world", "ip": "9.9.9.9"},
            {"id": "other", "kind": "world", "ip": "8.8.4.4"},
            {"id": "worse", "kind": "world", "ip": "9.9.9.10"},
        ],
        cidrGroups=[
            {"name": "google", "cidrs": ["8.8.0.0/16"]},
            {"name": "quad9", "labels": {"tier": "dns"}, "cidrs": ["9.9.9.0/24"]},
            {"name": "bad", "cidrs": ["9.9.9.10/32"]},
        ],
    ),
    case(
        "what-cannot-be-done-is-not-allowed",
        [
            from_a(
                {
                    "toEndpoints": [labels(app="b")],
                    "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/"}]}}],
                },
                {"toEndpoints": [labels(app="b")], "toPorts": ports("81"), "authentication": {"mode": "required"}},
                {"toEndpoints": [labels(app="b")], "toPorts": ports("82"), "authentication": {"mode": "disabled"}},
                {"toGroups": [{"aws": {"securityGroupsIds": ["sg-1"]}}], "toPorts": ports("83")},
            )
        ],
        {"a b 80": D, "a b 81": D, "a b 82": A, "a b 83": D, "a w 83": D},
    ),
    case(
        "what-cannot-be-done-is-denied",
        [
            from_a({"toEntities": ["all"]}, egressDeny=[{"toGroups": [{"aws": {}}], "toPorts": ports("83")}]),
        ],
        {"a b 80": A, "a b 83": f"{D} egress/{EXPLICIT}", "a w 83": f"{D} egress/{EXPLICIT}"},
    ),
    case(
        "policies-for-nodes-mean-no-pod",
        [ccnp({"nodeSelector": {}, "ingress": [{}], "egressDeny": [{"toEntities": ["all"]}]})],
        {"b a 80": A, "a w 80": A, "h a 80": A},
    ),
]
