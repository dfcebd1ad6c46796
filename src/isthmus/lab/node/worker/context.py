"""What all pods of a node share."""

from pathlib import Path

import msgspec

from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.lab.images.imagefile import ImageSource
from isthmus.lab.images.rootfs import Rootfs
from isthmus.lab.node.environment.watching import Services
from isthmus.lab.node.keeper.client import Keeper
from isthmus.lab.node.network.addresses import AddressPool
from isthmus.lab.node.network.names import Resolution
from isthmus.lab.node.probes.perform import Asker
from isthmus.lab.node.volumes.objects import Objects


class NodeContext(msgspec.Struct, frozen=True):
    """A node, as its pods need it; `address6` and `pool6` only where there are two families."""

    name: str
    address: str
    client: Client
    events: EventRecorder
    pool: AddressPool
    rootfs: Rootfs
    images: ImageSource
    keeper: Keeper
    objects: Objects
    services: Services
    asker: Asker
    resolution: Resolution
    host: Path
    """What stands for the node's own file system (hostPath)."""
    allocatable: dict[str, str] = {}
    address6: str = ""
    pool6: AddressPool | None = None

    @property
    def host_ips(self) -> tuple[str, ...]:
        """The node's addresses, IPv4 first."""
        return tuple(ip for ip in (self.address, self.address6) if ip)
