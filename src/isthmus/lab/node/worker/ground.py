"""What a pod's containers stand on: volumes, addresses, namespaces, the files under /etc, a shared process namespace.

Invariants: an address is on disk before it is used, and given back after its link is gone; a pod that is over gives
back its network but keeps showing its address; a sandbox that a restart of the machine took away is made again with
the same addresses.
"""

import asyncio
import os
import signal

from isthmus.lab.images.catalog import UnknownImage
from isthmus.lab.node.containers.process import send
from isthmus.lab.node.containers.run import StartError, begin, still_there
from isthmus.lab.node.containers.runspec import run_spec
from isthmus.lab.node.environment.variables import ConfigError, Environment
from isthmus.lab.node.keeper.client import KeeperError
from isthmus.lab.node.network import sandbox
from isthmus.lab.node.network.addresses import ExhaustedError
from isthmus.lab.node.network.names import hosts_file, kernel_hostname, resolv_conf
from isthmus.lab.node.network.sandbox import PodLink, SandboxError
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.record import Process
from isthmus.lab.node.worker.state import PodState

_INFRA = Container(name="POD", image="pause")


class GroundError(Exception):
    """The pod's sandbox cannot be made; the message is for an Event."""


class Ground:
    """Makes and releases the ground of one pod."""

    def __init__(self, state: PodState) -> None:
        self._state = state
        self.ready = False
        self._released = False

    async def prepare(self) -> bool:
        """Makes everything; False if something is not known yet. Raises VolumeError, GroundError, OSError."""
        state = self._state
        state.volumes.follow(state.pod)
        if not state.context.objects.is_known(state.pod.metadata.uid):
            return False
        await state.volumes.write(state.pod, state.facts)
        pod = state.pod
        if pod.spec.hostNetwork:
            state.save(ip=state.context.address, ip6=state.context.address6)
        else:
            self._tell_host_ports()
            await self._make_network()
        await asyncio.to_thread(self._write_etc)
        if pod.spec.shareProcessNamespace and not still_there(state.record.infra):
            state.save(infra=await self._start_infra())
        self.ready = True
        return True

    async def adopt(self) -> None:
        """Takes over what an earlier process of this node made, as far as it is still there."""
        state = self._state
        self.ready = state.pod.spec.hostNetwork or sandbox.exists(state.place)
        if state.record.infra is not None and not still_there(state.record.infra):
            self.ready = False
        if self.ready:
            state.volumes.follow(state.pod)
        elif state.records and state.pod.status.phase not in ("Succeeded", "Failed"):
            state.tell("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")

    async def release(self) -> None:
        """Gives back network and addresses; a second time is no error."""
        state = self._state
        if self._released:
            return
        self._released = True
        self.ready = False
        state.volumes.forget(state.pod)
        if state.record.infra is not None and still_there(state.record.infra):
            send(state.record.infra.pid, signal.SIGKILL)
        if not state.record.link:
            return
        try:
            await sandbox.remove_namespaces(state.context.keeper, state.place, link=state.record.link)
        except SandboxError as error:
            state.log.warning("sandbox not removed", reason=str(error))
        state.save(link="", infra=None)
        state.context.pool.give_back(state.record.ip)
        if state.record.ip6 and state.context.pool6 is not None:
            state.context.pool6.give_back(state.record.ip6)

    async def _make_network(self) -> None:
        state, context = self._state, self._state.context
        link = sandbox.link_name(state.pod.metadata.uid)
        try:
            hostname = kernel_hostname(state.pod, context.resolution.domain)
            ip = state.record.ip or context.pool.take()
            ip6 = state.record.ip6
            if context.pool6 is not None and not ip6:
                ip6 = context.pool6.take()
            state.save(ip=ip, ip6=ip6, link=link)
            wanted = PodLink(
                name=link,
                hostname=hostname,
                ip=ip,
                host_ip=context.address,
                ip6=ip6,
                host_ip6=context.address6 if ip6 else "",
            )
            if sandbox.exists(state.place):
                await sandbox.remove_namespaces(context.keeper, state.place, link=link)
            await sandbox.make_namespaces(context.keeper, state.place, wanted)
        except (ExhaustedError, SandboxError, ValueError) as error:
            raise GroundError(str(error)) from error

    def _write_etc(self) -> None:
        state, context = self._state, self._state.context
        pod, place = state.pod, state.place
        place.etc("hosts").parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        hosts = hosts_file(pod, domain=context.resolution.domain, ips=state.ips, node_name=context.name)
        hostname = context.name if pod.spec.hostNetwork else kernel_hostname(pod, context.resolution.domain)
        for name, text in (
            ("hosts", hosts),
            ("hostname", f"{hostname}\n"),
            ("resolv.conf", resolv_conf(pod, context.resolution)),
        ):
            place.etc(name).write_text(text)

    async def _start_infra(self) -> Process:
        """Starts the process that the containers' shared process namespace lives with."""
        state = self._state
        files = state.place.container(_INFRA.name, 1)
        try:
            files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.message.touch()
            spec = run_spec(
                state.pod,
                _INFRA,
                image=state.context.images.find(_INFRA.image),
                environment=Environment(variables={"PATH": "/bin"}, declared={}),
                place=state.place,
                files=files,
                rootfs=state.context.rootfs,
                volumes=state.volumes,
            )
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                body = {**spec, "exit": str(files.exit), "reaps": True}
                async with state.context.keeper.ask("start", body, descriptors=[nothing] * 3) as answers:
                    return (await begin(answers)).process
            finally:
                os.close(nothing)
        except (KeeperError, StartError, ConfigError, UnknownImage) as error:
            raise GroundError(str(error)) from error

    def _tell_host_ports(self) -> None:
        state = self._state
        for container in state.pod.all_containers:
            for port in container.ports:
                if port.hostPort:
                    text = (
                        f"hostPort {port.hostPort} of container {container.name} is not forwarded by the lab: "
                        "use hostNetwork or a Service of type NodePort"
                    )
                    state.tell("HostPortNotForwarded", text, type="Warning")
