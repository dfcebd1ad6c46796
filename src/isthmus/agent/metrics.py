"""What the agent counts, as Prometheus shows it. One instance a process; names are part of the interface."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from isthmus.agent.policies.book import PolicyBook
from isthmus.kube.resources import POLICY_KINDS
from isthmus.policy.rules import Grade

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class ProbeMetrics:
    """What the agent counts of probes of nodes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.probes = Counter(
            "isthmus_agent_probes",
            "Probes of nodes by outcome: answered, missed, or unable (not possible here).",
            ["outcome"],
            registry=registry,
        )
        self.targets = Gauge("isthmus_agent_probe_targets", "Nodes that are probed.", registry=registry)
        self.interval = Gauge(
            "isthmus_agent_probe_interval_seconds", "Between two probes of a node.", registry=registry
        )
        self.unreachable = Gauge(
            "isthmus_agent_nodes_unreachable", "Nodes that do not answer any more.", ["cluster"], registry=registry
        )


class GlobalMetrics:
    """What the agent counts of global services."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.services = Gauge(
            "isthmus_agent_global_services", "Services of this cluster that are global.", registry=registry
        )
        self.backends = Gauge(
            "isthmus_agent_remote_backends",
            "Backends of other clusters in global services.",
            ["cluster"],
            registry=registry,
        )
        self.unreachable = Gauge(
            "isthmus_agent_remote_backends_unreachable",
            "Those of them that are used only if nothing else is left.",
            ["cluster"],
            registry=registry,
        )
        self.left_out = Gauge(
            "isthmus_agent_remote_backends_left_out",
            "Backends of other clusters whose address is not theirs to share.",
            ["cluster"],
            registry=registry,
        )
        self.reachable = Gauge(
            "isthmus_agent_cluster_reachable",
            "1 for another cluster that is reachable or not known to be otherwise, 0 for one that is not, or stale.",
            ["cluster"],
            registry=registry,
        )
        self.drained = Gauge(
            "isthmus_agent_cluster_drained",
            "How much of a cluster is drained, 0 to 1.",
            ["cluster"],
            registry=registry,
        )
        self.faulty = Gauge(
            "isthmus_agent_global_services_with_problems",
            "Services and namespaces with annotations that cannot be read.",
            registry=registry,
        )


class AgentMetrics:
    """The agent's metrics on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.policies = Gauge("isthmus_agent_policies", "Policy objects by kind.", ["kind"], registry=registry)
        self.faulty = Gauge(
            "isthmus_agent_policies_with_problems",
            "Policy objects by what their problems mean: Invalid, NotEnforced (that part fails closed), Warning.",
            ["grade"],
            registry=registry,
        )
        self.enforcement = Histogram(
            "isthmus_agent_policy_enforcement_seconds",
            "From a policy's change as the watch tells it to the kernel's commit.",
            buckets=_LATENCY,
            registry=registry,
        )
        self.pods = Gauge("isthmus_agent_pods", "Pods of this node that policies can select.", registry=registry)
        self.identities = Gauge("isthmus_agent_identities", "Identities known, all clusters.", registry=registry)
        self.endpoints = Gauge("isthmus_agent_endpoints", "Pod IPs known, all clusters.", registry=registry)
        self.gates = Gauge("isthmus_agent_gates", "Distinct policy sets in the kernel.", registry=registry)
        self.shut = Gauge(
            "isthmus_agent_gates_shut",
            "Policy sets that the kernel refuses, or that are too large for it: closed while that is so.",
            registry=registry,
        )
        self.transactions = Counter(
            "isthmus_agent_transactions", "Kernel transactions by kind.", ["kind"], registry=registry
        )
        self.errors = Counter("isthmus_agent_transaction_errors", "Kernel transactions refused.", registry=registry)
        self.duration = Histogram(
            "isthmus_agent_transaction_seconds",
            "From the first change to the kernel's commit.",
            buckets=_LATENCY,
            registry=registry,
        )

    def watch(self, book: PolicyBook) -> None:
        """Lets what `book` holds be counted when somebody asks."""

        def count(kind: str) -> float:
            return book.counts.get(kind, 0)

        def faulty(grade: Grade) -> float:
            return book.grades[grade]

        for resource in POLICY_KINDS:
            self.policies.labels(resource.kind).set_function(partial(count, resource.kind))
        for grade in Grade:
            self.faulty.labels(grade.value).set_function(partial(faulty, grade))


class ServiceMetrics:
    """What the agent counts of Services, where it serves them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.services = Gauge("isthmus_agent_services", "Services with an address.", registry=registry)
        self.frontends = Gauge("isthmus_agent_service_frontends", "Addresses and ports served.", registry=registry)
        self.backends = Gauge("isthmus_agent_service_backends", "Distinct backends in use.", registry=registry)
        self.faulty = Gauge(
            "isthmus_agent_services_with_problems",
            "Services and EndpointSlices of which some part is left out.",
            registry=registry,
        )
        self.flushed = Counter(
            "isthmus_agent_service_connections_flushed",
            "Connections forgotten because their backend went, or came.",
            registry=registry,
        )
        self.flush_errors = Counter(
            "isthmus_agent_service_flush_errors", "Look-throughs of connections that failed.", registry=registry
        )
