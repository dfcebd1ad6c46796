"""`python -m isthmus.lab.node`: the process of one node, run by the supervisor inside the node's namespaces."""

import argparse
import asyncio
import contextlib
import resource
from pathlib import Path

import structlog

from isthmus.aio.signals import run_until_signal
from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.kubeconfig import load
from isthmus.lab.daemon import set_up_logging, settle_memory
from isthmus.lab.images.imagefile import ImageFileError, ImageSource
from isthmus.lab.images.rootfs import Rootfs
from isthmus.lab.node.environment.watching import Services
from isthmus.lab.node.keeper.client import Keeper
from isthmus.lab.node.network.addresses import AddressPool
from isthmus.lab.node.network.names import Resolution, read_resolv_conf
from isthmus.lab.node.network.sources import guard_sources
from isthmus.lab.node.probes.perform import Asker
from isthmus.lab.node.registration import NodeFacts, Registration, allocatable
from isthmus.lab.node.runtime import Runtime, addresses_in_use
from isthmus.lab.node.server import NodeServer, server_tls
from isthmus.lab.node.volumes.objects import Objects
from isthmus.lab.node.worker.context import NodeContext
from isthmus.lab.supervisor.commands import CommandError

EVENT_RATE, EVENT_BURST = 50.0, 100
"""As the kubelet's eventRecordQPS and eventBurst."""
EVENT_QUEUE = 1024
"""Five Events of each pod, when a node's pods all start at once."""

DESCRIPTORS = 65536

_log = structlog.get_logger()


def main() -> int:
    """Runs the node until a signal."""
    set_up_logging()
    options = _parser().parse_args()
    _allow_descriptors()
    return run_until_signal(lambda: _serve(options))


async def _serve(options: argparse.Namespace) -> None:
    images = _images(options.images_file)
    rootfs = Rootfs(options.images_dir)
    # Made already, unless the lab's programs are newer than the lab.
    rootfs.prepare()
    facts = NodeFacts(
        name=options.node_name,
        address=options.address,
        address6=options.address6,
        pod_cidr=options.pod_cidr,
        pod_cidr6=options.pod_cidr6,
        control_plane=options.control_plane,
        tainted=options.taint,
        images=tuple(images.catalog.names),
    )
    addresses = tuple(ip for ip in (options.address, options.address6) if ip)
    tls = server_tls(certificate=options.tls_cert, key=options.tls_key, ca=options.client_ca)
    if options.pod_cidr6:
        try:
            guard_sources()
        except CommandError as error:
            _log.warning("pods can forge IPv6 addresses on this node", reason=str(error))
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(load(options.kubeconfig)))
        taken, taken6 = addresses_in_use(options.data_dir)
        asker = Asker()
        stack.push_async_callback(asker.close)
        keeper = Keeper(options.run_dir, log=options.data_dir / "keeper.log")
        stack.callback(keeper.close)
        # Told of changes only once pods refer to objects, which is after the runtime exists.
        objects = Objects(client, on_change=lambda uid: runtime.objects_changed(uid))
        stack.push_async_callback(objects.close)
        context = NodeContext(
            name=options.node_name,
            address=options.address,
            address6=options.address6,
            client=client,
            events=EventRecorder(
                client, "kubelet", options.node_name, rate=EVENT_RATE, burst=EVENT_BURST, queue=EVENT_QUEUE
            ),
            pool=AddressPool(options.pod_cidr, taken=taken),
            pool6=AddressPool(options.pod_cidr6, taken=taken6) if options.pod_cidr6 else None,
            rootfs=rootfs,
            images=images,
            keeper=keeper,
            objects=objects,
            services=Services(client),
            asker=asker,
            resolution=_resolution(options),
            host=options.data_dir / "host",
            allocatable=allocatable(),
        )
        runtime = Runtime(context, root=options.data_dir, run=options.run_dir)
        await stack.enter_async_context(NodeServer(runtime.find, addresses=addresses, tls=tls))
        _log.info("node started", node=options.node_name, address=options.address)
        settle_memory()
        async with asyncio.TaskGroup() as group:
            group.create_task(context.events.serve())
            group.create_task(context.services.serve())
            group.create_task(Registration(client, facts).serve())
            group.create_task(runtime.serve())


def _allow_descriptors() -> None:
    """Raises the limit of open files as far as it goes: each container takes four, and many shells allow 1,024."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _images(path: Path | None) -> ImageSource:
    try:
        return ImageSource(path, on_error=lambda message: _log.warning("image file not used", reason=message))
    except ImageFileError as error:
        _log.warning("image file not used", reason=str(error))
        return ImageSource()


def _resolution(options: argparse.Namespace) -> Resolution:
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    with contextlib.suppress(OSError):
        nameservers, search = read_resolv_conf(Path("/etc/resolv.conf").read_text())
    return Resolution(
        domain=options.cluster_domain,
        nameservers=tuple(options.cluster_dns.split(",")),
        node_nameservers=nameservers,
        node_search=search,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="isthmus.lab.node", description=__doc__)
    parser.add_argument("--node-name", required=True)
    parser.add_argument("--address", required=True, help="this node's address on the segment")
    parser.add_argument("--pod-cidr", required=True)
    parser.add_argument("--address6", default="", help="this node's IPv6 address on the segment")
    parser.add_argument("--pod-cidr6", default="", help="its pods' IPv6 network; without it pods have IPv4 only")
    parser.add_argument("--cluster-dns", required=True, help="what pods find in resolv.conf, comma separated")
    parser.add_argument("--cluster-domain", default="cluster.local")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True, help="where records, logs and volumes of pods are kept")
    parser.add_argument("--run-dir", type=Path, required=True, help="where namespace files of pods are kept")
    parser.add_argument("--images-dir", type=Path, required=True)
    parser.add_argument("--images-file", type=Path, help="a file of further images")
    parser.add_argument("--tls-cert", required=True)
    parser.add_argument("--tls-key", required=True)
    parser.add_argument("--client-ca", required=True)
    parser.add_argument("--control-plane", action="store_true")
    parser.add_argument("--taint", action="store_true", help="keep ordinary pods away (control plane)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
