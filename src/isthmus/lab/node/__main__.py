"""`python -m isthmus.lab.node`: the process of one node, run by the supervisor inside the node's namespaces."""

import argparse
import asyncio
import contextlib
from pathlib import Path

import structlog

from isthmus.aio.signals import run_until_signal
from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.kubeconfig import load
from isthmus.lab.daemon import set_up_logging, settle_memory
from isthmus.lab.images.rootfs import Rootfs
from isthmus.lab.node.addresses import AddressPool
from isthmus.lab.node.registration import NodeFacts, Registration
from isthmus.lab.node.runtime import Runtime, addresses_in_use
from isthmus.lab.node.server import NodeServer, server_tls
from isthmus.lab.node.worker import NodeContext

_log = structlog.get_logger()


def main() -> int:
    """Runs the node until a signal."""
    set_up_logging()
    options = _parser().parse_args()
    return run_until_signal(lambda: _serve(options))


async def _serve(options: argparse.Namespace) -> None:
    rootfs = Rootfs(options.images_dir)
    facts = NodeFacts(
        name=options.node_name,
        address=options.address,
        pod_cidr=options.pod_cidr,
        control_plane=options.control_plane,
        tainted=options.taint,
    )
    tls = server_tls(certificate=options.tls_cert, key=options.tls_key, ca=options.client_ca)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(load(options.kubeconfig)))
        events = EventRecorder(client, "kubelet", options.node_name)
        pool = AddressPool(options.pod_cidr, taken=addresses_in_use(options.data_dir, host_ip=options.address))
        context = NodeContext(
            name=options.node_name,
            address=options.address,
            nameserver=options.cluster_dns,
            client=client,
            events=events,
            pool=pool,
            rootfs=rootfs,
        )
        runtime = Runtime(context, root=options.data_dir, run=options.run_dir)
        await stack.enter_async_context(
            NodeServer(runtime.find, address=options.address, tls=tls, host_ip=options.address)
        )
        _log.info("node started", node=options.node_name, address=options.address)
        settle_memory()
        async with asyncio.TaskGroup() as group:
            group.create_task(events.serve())
            group.create_task(Registration(client, facts).serve())
            group.create_task(runtime.serve())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="isthmus.lab.node", description=__doc__)
    parser.add_argument("--node-name", required=True)
    parser.add_argument("--address", required=True, help="this node's address on the segment")
    parser.add_argument("--pod-cidr", required=True)
    parser.add_argument("--cluster-dns", required=True, help="what pods find in resolv.conf")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True, help="where records, logs and volumes of pods are kept")
    parser.add_argument("--run-dir", type=Path, required=True, help="where namespace files of pods are kept")
    parser.add_argument("--images-dir", type=Path, required=True)
    parser.add_argument("--tls-cert", required=True)
    parser.add_argument("--tls-key", required=True)
    parser.add_argument("--client-ca", required=True)
    parser.add_argument("--control-plane", action="store_true")
    parser.add_argument("--taint", action="store_true", help="keep ordinary pods away (control plane)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
