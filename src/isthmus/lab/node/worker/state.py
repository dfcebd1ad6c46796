"""What is known of one pod while its worker lives: the API object, the record on disk, the runs under way."""

import asyncio
import contextlib
from typing import Any

import msgspec
import structlog

from isthmus.kube.schema import ObjectReference
from isthmus.lab.node.containers.output import Output
from isthmus.lab.node.containers.paths import PodDir
from isthmus.lab.node.containers.run import Run
from isthmus.lab.node.environment.fields import Facts
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.record import Record, SandboxRecord
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.node.volumes.provider import PodVolumes
from isthmus.lab.node.volumes.tokens import PodTokens
from isthmus.lab.node.worker.context import NodeContext

_log = structlog.get_logger()


class PodState:
    """Shared by those who work on the pod; `wake` is set when something happened."""

    def __init__(self, context: NodeContext, pod: Pod, place: PodDir) -> None:
        self.context = context
        self.pod = pod
        self.place = place
        self.gone = False
        """Whether the API object does not exist any more."""
        self.runs: dict[str, Run] = {}
        self.outputs: dict[str, Output] = {}
        """The output of each container's latest run, also after its end."""
        self.record = place.load() or SandboxRecord(
            uid=pod.metadata.uid, namespace=pod.metadata.namespace, name=pod.metadata.name, ip=""
        )
        self.volumes = PodVolumes(place, host=context.host, objects=context.objects, tokens=PodTokens(context.client))
        self.wake = asyncio.Event()
        self.wake.set()
        self.log = _log.bind(pod=pod.where)

    @property
    def records(self) -> dict[str, Record]:
        """The records of the pod's containers, by name."""
        return self.record.containers

    @property
    def ips(self) -> tuple[str, ...]:
        """The pod's addresses, IPv4 first; empty before it has one."""
        return tuple(ip for ip in (self.record.ip, self.record.ip6) if ip)

    @property
    def ending(self) -> bool:
        """Whether the pod is being deleted, or has been ended by its node."""
        return self.gone or bool(self.pod.metadata.deletionTimestamp) or bool(self.record.failure[0])

    @property
    def facts(self) -> Facts:
        """What the downward API tells."""
        return Facts(pod_ips=self.ips, host_ips=self.context.host_ips, allocatable=self.context.allocatable)

    def container(self, name: str) -> Container:
        """Returns a container of the pod by name, or an empty one for a name that the pod does not have any more."""
        return self.pod.container(name) or Container(name=name)

    def put(self, record: Record) -> None:
        """Writes the record of a container."""
        self.save(containers={**self.record.containers, record.name: record})

    def save(self, **changes: Any) -> None:
        """Changes the record, on disk too; a full disk costs only what a restart of the node would need."""
        self.record = msgspec.structs.replace(self.record, **changes)
        try:
            self.place.save(self.record)
        except OSError as error:
            self.log.warning("record not written", reason=str(error))
            with contextlib.suppress(OSError):
                self.place.record.with_suffix(".new").unlink(missing_ok=True)

    def tell(self, reason: str, message: str, *, type: str = "Normal", container: Container | None = None) -> None:
        """Emits an Event about the pod or one of its containers."""
        meta = self.pod.metadata
        field = ""
        if container is not None:
            kind = "initContainers" if container in self.pod.spec.initContainers else "containers"
            field = f"spec.{kind}{{{container.name}}}"
        about = ObjectReference(
            kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid, apiVersion="v1", fieldPath=field
        )
        self.context.events.emit(about, reason=reason, message=message, type=type)
