"""The volumes of one pod: made before its containers, kept up to date while they run.

Invariants: what containers have mounted is never replaced as a directory, only its content; a volume whose source has
gone keeps what it had (as kubelets do). `hostPath` leads into a directory that stands for the node's own file system,
never to the machine's: what pods write there stays for later pods of the node and is gone with the cluster.
"""

import asyncio
import contextlib
import stat
from pathlib import Path

from isthmus.lab.node.containers.paths import PodDir
from isthmus.lab.node.environment import variables
from isthmus.lab.node.environment.fields import Facts
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.node.pods.volume import HostPath, Volume
from isthmus.lab.node.volumes import places, projection
from isthmus.lab.node.volumes.objects import Key, Objects
from isthmus.lab.node.volumes.projection import VolumeError, payload, token_sources
from isthmus.lab.node.volumes.tokens import PodTokens
from isthmus.lab.node.volumes.writing import give, write_files


class PodVolumes:
    """Provides the volumes of a pod below `place`; `host` stands for the node's file system."""

    def __init__(self, place: PodDir, *, host: Path, objects: Objects, tokens: PodTokens) -> None:
        self._place = place
        self._host = host
        self._objects = objects
        self._tokens = tokens

    @property
    def renew_at(self) -> float | None:
        """When something has to be renewed by itself, seconds since the epoch."""
        return self._tokens.renew_at

    def follow(self, pod: Pod) -> None:
        """Follows the objects that the pod needs, for volumes and environment."""
        needed = projection.references(pod.spec.volumes)
        for container in pod.all_containers:
            needed |= variables.references(container)
        keys: set[Key] = {(kind, pod.metadata.namespace, name) for kind, name in needed}
        self._objects.need(pod.metadata.uid, keys)

    def forget(self, pod: Pod) -> None:
        """Lets go of the objects."""
        self._objects.need(pod.metadata.uid, set())

    async def write(self, pod: Pod, facts: Facts) -> None:
        """Makes all volumes as they should be now; raises VolumeError with the first problem, naming the volume."""
        with contextlib.suppress(VolumeError):
            # A token that is missing is told of below, with the name of its volume.
            await self._tokens.fetch(pod, token_sources(pod.spec.volumes))
        for volume in pod.spec.volumes:
            try:
                await asyncio.to_thread(self._write_one, volume, pod, facts)
            except (VolumeError, OSError) as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error}') from error

    def directory(self, volume: Volume) -> Path:
        """Returns what containers mount."""
        if volume.hostPath is not None:
            return _inside(self._host, volume.hostPath.path)
        return self._place.volume(volume.name)

    def find(self, pod: Pod, kind: str, name: str) -> variables.Data | None:
        """Returns the data of an object of the pod's namespace."""
        return self._objects.find(kind, pod.metadata.namespace, name)

    def _write_one(self, volume: Volume, pod: Pod, facts: Facts) -> None:
        files = payload(
            volume, pod, facts=facts, find=lambda kind, name: self.find(pod, kind, name), token=self._tokens.get
        )
        directory = self.directory(volume)
        context = pod.spec.securityContext
        if files is not None:
            write_files(directory, files, group=context.fsGroup, owner=context.runAsUser)
        elif volume.hostPath is not None:
            _check_host_path(self._host, directory, volume.hostPath)
        elif not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            if context.fsGroup is not None:
                give(directory, group=context.fsGroup)
            directory.chmod(0o2777 if context.fsGroup is not None else 0o777)


def _check_host_path(root: Path, place: Path, source: HostPath) -> None:
    if source.type in ("", "DirectoryOrCreate", "FileOrCreate") and not place.exists():
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory = source.type != "FileOrCreate"
        try:
            places.make(root, place, directory=directory, mode=0o755 if directory else 0o644)
        except places.OutsideError as error:
            raise VolumeError(f"hostPath {source.path}: leads out of the node") from error
    kinds = {
        "Directory": ("directory", stat.S_ISDIR),
        "DirectoryOrCreate": ("directory", stat.S_ISDIR),
        "File": ("file", stat.S_ISREG),
        "FileOrCreate": ("file", stat.S_ISREG),
        "Socket": ("socket file", stat.S_ISSOCK),
        "CharDevice": ("character device", stat.S_ISCHR),
        "BlockDevice": ("block device", stat.S_ISBLK),
    }
    if source.type in kinds:
        name, fits = kinds[source.type]
        if not place.exists() or not fits(place.stat().st_mode):
            raise VolumeError(
                f"hostPath type check failed: {source.path} is not a {name} (a node of the lab has a file system of "
                "its own, which begins empty)"
            )


def _inside(root: Path, path: str) -> Path:
    """Returns where `path` of the node is; raises VolumeError if it would leave `root`."""
    try:
        return places.find(root, path.strip("/"))
    except places.OutsideError as error:
        raise VolumeError(f"hostPath {path}: leads out of the node") from error
