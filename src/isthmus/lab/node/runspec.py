"""What `init` needs to know in order to become a container."""

import os
import sys
from typing import Any

from isthmus.lab.images.catalog import AGNHOST, Image, full_argv
from isthmus.lab.images.rootfs import Rootfs
from isthmus.lab.node.environment import UnsupportedError, environment, expand_all
from isthmus.lab.node.init import CAPABILITIES, DEFAULT_CAPABILITIES
from isthmus.lab.node.paths import PodDir
from isthmus.lab.node.pod import Container, Pod

ENTER = "/run/lab/init.py"
"""Where a container finds `init`, for `exec`."""


def run_spec(
    pod: Pod, container: Container, *, image: Image, place: PodDir, rootfs: Rootfs, ip: str, host_ip: str
) -> dict[str, Any]:
    """Returns the specification of a container's process; raises UnsupportedError."""
    env = environment(pod, container, image=image, host_ip=host_ip, pod_ip=ip, services={})
    argv = full_argv(image, command=expand_all(container.command, env), args=expand_all(container.args, env))
    return {
        "argv": argv,
        "env": env,
        "cwd": container.workingDir,
        "terminal": container.tty,
        "privileged": container.securityContext.privileged,
        "capabilities": sorted(capabilities(container)),
        "root": str(rootfs.mount_point),
        "binds": [*_system_binds(place, rootfs), *_volume_binds(pod, container, place)],
    }


def capabilities(container: Container) -> frozenset[str]:
    """Returns what the container may do; names are without CAP_."""
    chosen = container.securityContext.capabilities
    if "ALL" in chosen.drop:
        kept = frozenset[str]()
    else:
        kept = DEFAULT_CAPABILITIES - {name.removeprefix("CAP_") for name in chosen.drop}
    if "ALL" in chosen.add:
        return frozenset(CAPABILITIES)
    return kept | {name.removeprefix("CAP_") for name in chosen.add}


def python() -> str:
    """Returns the interpreter behind the virtual environment, which containers see too."""
    return os.path.realpath(sys.executable)


def _system_binds(place: PodDir, rootfs: Rootfs) -> list[tuple[str, str, bool]]:
    binds = [
        (str(rootfs.applets), "/bin", True),
        (str(rootfs.agnhost), AGNHOST, True),
        (os.path.join(os.path.dirname(__file__), "init.py"), ENTER, True),
        *((str(place.etc(name)), f"/etc/{name}", False) for name in ("hosts", "hostname", "resolv.conf")),
    ]
    # /usr is in every container; an interpreter that lives elsewhere must be brought along.
    if not python().startswith("/usr/"):
        binds.append((sys.base_prefix, sys.base_prefix, True))
    return binds


def _volume_binds(pod: Pod, container: Container, place: PodDir) -> list[tuple[str, str, bool]]:
    known = {volume.name for volume in pod.spec.volumes}
    binds = []
    for wanted in container.volumeMounts:
        if wanted.name not in known:
            raise UnsupportedError(f'volumeMount "{wanted.name}": no such volume')
        source = place.volume(wanted.name)
        if wanted.subPath:
            inner = (source / wanted.subPath).resolve()
            if not inner.is_relative_to(source.resolve()):
                raise UnsupportedError(f'volumeMount "{wanted.name}": subPath leaves the volume')
            inner.mkdir(parents=True, exist_ok=True)
            source = inner
        binds.append((str(source), wanted.mountPath, wanted.readOnly))
    return binds
