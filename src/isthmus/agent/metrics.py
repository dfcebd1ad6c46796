"""What the agent counts, as Prometheus shows it. One instance a process; names are part of the interface."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class AgentMetrics:
    """The agent's metrics on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.policies = Gauge("isthmus_agent_policies", "NetworkPolicies in force.", registry=registry)
        self.faulty = Gauge(
            "isthmus_agent_policies_with_problems",
            "NetworkPolicies of which some part fails closed.",
            registry=registry,
        )
        self.pods = Gauge("isthmus_agent_pods", "Pods of this node that policies can select.", registry=registry)
        self.identities = Gauge("isthmus_agent_identities", "Identities known, all clusters.", registry=registry)
        self.endpoints = Gauge("isthmus_agent_endpoints", "Pod IPs known, all clusters.", registry=registry)
        self.gates = Gauge("isthmus_agent_gates", "Distinct policy sets in the kernel.", registry=registry)
        self.shut = Gauge(
            "isthmus_agent_gates_shut",
            "Policy sets that the kernel refuses: closed until it does not.",
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
            "UDP connections forgotten because their backend went, or came.",
            registry=registry,
        )
        self.flush_errors = Counter(
            "isthmus_agent_service_flush_errors", "Look-throughs of UDP connections that failed.", registry=registry
        )
