"""What the writing of objects counts. One instance a process; names are part of the interface."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from isthmus.kube.resources import Resource


class ControlMetrics:
    """On `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._writes = Counter(
            "isthmus_tracker_object_writes",
            "Writes to the own API server by kind and result (done, refused, failed).",
            ["resource", "result"],
            registry=registry,
        )
        self.global_services = Gauge(
            "isthmus_tracker_global_services", "Services that are global here.", registry=registry
        )
        self.conflicts = Gauge(
            "isthmus_tracker_global_services_with_conflicts",
            "Global services whose ports do not match those of another cluster.",
            registry=registry,
        )
        self.invalid = Gauge(
            "isthmus_tracker_services_with_invalid_annotations",
            "Services whose annotations about other clusters cannot be read as a whole.",
            registry=registry,
        )
        self.unserved = Gauge(
            "isthmus_tracker_global_services_without_backends",
            "Global services for which no cluster has a usable backend.",
            registry=registry,
        )
        self.mirrored = Gauge(
            "isthmus_tracker_mirrored_endpointslices",
            "EndpointSlices that stand for other clusters'.",
            registry=registry,
        )
        self.waiting = Gauge("isthmus_tracker_object_queue", "Objects that wait to be looked at.", registry=registry)

    def wrote(self, resource: Resource, result: str) -> None:
        """Counts a write."""
        self._writes.labels(str(resource), result).inc()
