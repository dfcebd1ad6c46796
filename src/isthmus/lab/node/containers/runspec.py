"""What the keeper needs to know in order to make a container."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from isthmus.lab.images.catalog import Image, full_argv
from isthmus.lab.images.rootfs import Rootfs
from isthmus.lab.node.containers.paths import PodDir, RunFiles
from isthmus.lab.node.environment.expansion import expand, expand_all
from isthmus.lab.node.environment.variables import ConfigError, Environment
from isthmus.lab.node.keeper.program import CAPABILITIES, DEFAULT_CAPABILITIES
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.node.pods.volume import Volume
from isthmus.lab.node.volumes import places
from isthmus.lab.node.volumes.provider import PodVolumes

Json = dict[str, Any]
Bind = tuple[str, str, bool, bool]
"""Source, target, read-only, and whether the source must be that very path (no link of a container's making)."""

_NAMESPACES = ("net", "uts", "ipc")


def run_spec(
    pod: Pod,
    container: Container,
    *,
    image: Image,
    environment: Environment,
    place: PodDir,
    files: RunFiles,
    rootfs: Rootfs,
    volumes: PodVolumes,
) -> Json:
    """Returns the specification of a container; raises ConfigError, OSError."""
    declared = environment.declared
    argv = full_argv(image, command=expand_all(container.command, declared), args=expand_all(container.args, declared))
    if not argv:
        raise ConfigError("no command specified")
    binds: list[Bind] = [*_system_binds(place, rootfs, image), *_volume_binds(pod, container, declared, volumes)]
    if container.terminationMessagePath:
        binds.append((str(files.message), container.terminationMessagePath, False, False))
    return {
        **program_spec(pod, container, image=image, variables=environment.variables),
        "argv": argv,
        "terminal": container.tty,
        "root": str(rootfs.mount_point),
        "read_only_root": container.securityContext.readOnlyRootFilesystem,
        "binds": binds,
        "namespaces": [] if pod.spec.hostNetwork else [(str(place.namespace(kind)), kind) for kind in _NAMESPACES],
    }


def program_spec(pod: Pod, container: Container, *, image: Image, variables: Mapping[str, str]) -> Json:
    """Returns who a process of a container is and what it may do; raises ConfigError."""
    uid, gid = _user(pod, container, image)
    context = pod.spec.securityContext
    groups = [*context.supplementalGroups, *([] if context.fsGroup is None else [context.fsGroup])]
    return {
        "env": {**variables, **({} if uid == 0 else {"HOME": "/"})},
        "cwd": container.workingDir or image.workdir,
        "terminal": False,
        "privileged": container.securityContext.privileged,
        "capabilities": sorted(capabilities(container)),
        "uid": uid,
        "gid": gid,
        "groups": groups,
        "no_new_privileges": container.securityContext.allowPrivilegeEscalation is False,
    }


def capabilities(container: Container) -> frozenset[str]:
    """Returns what the container may do; names are without CAP_."""
    chosen = container.securityContext.capabilities
    add = {name.upper().removeprefix("CAP_") for name in chosen.add}
    drop = {name.upper().removeprefix("CAP_") for name in chosen.drop}
    kept = frozenset[str]() if "ALL" in drop else DEFAULT_CAPABILITIES - drop
    return frozenset(CAPABILITIES) - drop if "ALL" in add else kept | add


def python() -> str:
    """Returns the interpreter behind the virtual environment, which containers see too."""
    return os.path.realpath(sys.executable)


def _user(pod: Pod, container: Container, image: Image) -> tuple[int, int]:
    theirs, own = pod.spec.securityContext, container.securityContext
    uid_text, _, gid_text = image.user.partition(":")
    uid, gid = int(uid_text or 0), int(gid_text or 0)
    for user in (theirs.runAsUser, own.runAsUser):
        uid = uid if user is None else user
    for group in (theirs.runAsGroup, own.runAsGroup):
        gid = gid if group is None else group
    unwanted = theirs.runAsNonRoot if own.runAsNonRoot is None else own.runAsNonRoot
    if unwanted and uid == 0:
        meta = pod.metadata
        raise ConfigError(
            "container has runAsNonRoot and image will run as root "
            f'(pod: "{meta.name}_{meta.namespace}({meta.uid})", container: {container.name})'
        )
    return uid, gid


def _system_binds(place: PodDir, rootfs: Rootfs, image: Image) -> list[Bind]:
    binds: list[Bind] = [(source, target, True, False) for source, target in rootfs.binds(image)]
    binds += [(str(place.etc(name)), f"/etc/{name}", False, False) for name in ("hosts", "hostname", "resolv.conf")]
    # /usr is in every container; an interpreter that lives elsewhere must be brought along.
    if not python().startswith("/usr/"):
        binds.append((sys.base_prefix, sys.base_prefix, True, False))
    return binds


def _volume_binds(pod: Pod, container: Container, known: Mapping[str, str], volumes: PodVolumes) -> list[Bind]:
    by_name = {volume.name: volume for volume in pod.spec.volumes}
    binds: list[Bind] = []
    for wanted in container.volumeMounts:
        volume = by_name.get(wanted.name)
        if volume is None:
            raise ConfigError(f'volumeMount "{wanted.name}": no such volume')
        source = volumes.directory(volume)
        inner = wanted.subPath or expand(wanted.subPathExpr, known)
        if "$(" in inner and wanted.subPathExpr:
            raise ConfigError(f'volumeMount "{wanted.name}": missing value for {inner!r}')
        if inner:
            try:
                found = places.find(source, inner)
                if not found.exists():
                    places.make(source, found, directory=True, mode=0o777 if volume.emptyDir is not None else 0o755)
            except places.OutsideError as error:
                raise ConfigError(f'volumeMount "{wanted.name}": subPath leaves the volume') from error
            source = found
        # What pods can write to they can exchange.
        exact = bool(inner) or volume.hostPath is not None
        binds.append((str(source), wanted.mountPath, wanted.readOnly or _is_written_by_node(volume), exact))
    return binds


def _is_written_by_node(volume: Volume) -> bool:
    return any((volume.configMap, volume.secret, volume.downwardAPI, volume.projected))
