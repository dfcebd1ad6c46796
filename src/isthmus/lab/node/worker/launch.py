"""Starting one run of a container: image, configuration, process; each failure ends in the record and in an Event."""

import time

import msgspec

from isthmus.lab.images.catalog import Image, UnknownImage
from isthmus.lab.node.containers.run import Run, StartError, start
from isthmus.lab.node.containers.runspec import Json, program_spec, run_spec
from isthmus.lab.node.environment.variables import ConfigError, Environment, environment
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.record import Record, Waiting
from isthmus.lab.node.worker.state import PodState

RETRY = 10.0
"""Seconds until something that a container cannot do without is tried again."""
_AGAIN_SOON = 2.0
_SERVICES_LIMIT = 10.0
_PULLING = (Waiting.PULL_ERROR, Waiting.PULL_BACK_OFF)


class Launched(msgspec.Struct, frozen=True):
    """A run that began, and what it runs."""

    run: Run
    argv: tuple[str, ...]
    image: Image


class FailedStart(Exception):
    """The run ended before it began; its record, with the run counted, is in `record`."""

    def __init__(self, record: Record, message: str) -> None:
        super().__init__(message)
        self.record = record


async def launch(state: PodState, container: Container) -> Launched | None:
    """Starts the next run; None if it has to wait, for a reason that the record holds. Raises FailedStart."""
    before = state.records.get(container.name) or Record(container.name)
    try:
        image = state.context.images.find(container.image)
    except UnknownImage as error:
        image_trouble(state, container, before, error)
        return None
    attempt = before.attempt + 1
    files = state.place.container(container.name, attempt)
    try:
        spec = run_spec(
            state.pod,
            container,
            image=image,
            environment=await _environment(state, container, image),
            place=state.place,
            files=files,
            rootfs=state.context.rootfs,
            volumes=state.volumes,
        )
    except (ConfigError, OSError) as error:
        _config_trouble(state, container, before, str(error))
        return None
    text = f'Container image "{container.image}" already present on machine'
    state.tell("Pulled", text, container=container)
    record = Record(
        container.name,
        attempt=attempt,
        started_at=time.time(),
        before=before.ended or before.before,
        failures=before.failures,
    )
    try:
        run = await start(
            files,
            keeper=state.context.keeper,
            spec=spec,
            stdin=container.stdin,
            tty=container.tty,
            join=state.record.infra,
        )
    except (StartError, OSError) as error:
        state.tell("Failed", f"Error: {error}", type="Warning", container=container)
        raise FailedStart(record, str(error)) from error
    state.tell("Created", f"Created container: {container.name}", container=container)
    state.tell("Started", f"Started container {container.name}", container=container)
    state.put(msgspec.structs.replace(record, process=run.process))
    return Launched(run=run, argv=tuple(spec["argv"]), image=image)


async def command_spec(state: PodState, container: Container, command: tuple[str, ...], *, tty: bool = False) -> Json:
    """Returns what a further process of a running container needs; raises ConfigError, UnknownImage."""
    image = state.context.images.find(container.image)
    variables = dict((await _environment(state, container, image)).variables)
    if tty:
        variables["TERM"] = "xterm"
    spec = program_spec(state.pod, container, image=image, variables=variables)
    return {**spec, "argv": list(command), "terminal": tty}


async def _environment(state: PodState, container: Container, image: Image) -> Environment:
    services = state.context.services
    if not await services.read(limit=_SERVICES_LIMIT):
        raise ConfigError("services have not yet been read at least once, cannot construct envvars")
    meta = state.pod.metadata
    return environment(
        state.pod,
        container,
        image=image,
        facts=state.facts,
        services=services.variables(namespace=meta.namespace, links=state.pod.spec.enableServiceLinks),
        find=lambda kind, name: state.volumes.find(state.pod, kind, name),
    )


def image_trouble(state: PodState, container: Container, before: Record, error: UnknownImage) -> None:
    """Notes that there is no such image: first the error, then the back-off, as kubelets alternate."""
    if error.reason == Waiting.INVALID_IMAGE.value:
        if before.waiting is not Waiting.INVALID_IMAGE:
            state.tell("InspectFailed", f"{error}", type="Warning", container=container)
            state.tell("Failed", f"Error: {error.reason}", type="Warning", container=container)
        _wait(state, before, Waiting.INVALID_IMAGE, str(error), delay=RETRY)
        return
    if container.imagePullPolicy == "Never":
        text = f'Container image "{container.image}" is not present with pull policy of Never'
        if before.waiting is not Waiting.NEVER_PULL:
            state.tell("ErrImageNeverPull", text, type="Warning", container=container)
        _wait(state, before, Waiting.NEVER_PULL, f"{text}: {error}", delay=RETRY)
        return
    again = before.waiting in _PULLING
    if not again:
        state.tell("Pulling", f'Pulling image "{container.image}"', container=container)
        text = f'Failed to pull image "{container.image}": {error}'
        state.tell("Failed", text, type="Warning", container=container)
        state.tell("Failed", "Error: ErrImagePull", type="Warning", container=container)
    if before.waiting is Waiting.PULL_ERROR:
        text = f'Back-off pulling image "{container.image}"'
        state.tell("BackOff", text, container=container)
        state.tell("Failed", "Error: ImagePullBackOff", type="Warning", container=container)
        _wait(state, before, Waiting.PULL_BACK_OFF, f"{text}: ErrImagePull: {error}", delay=RETRY)
        return
    _wait(state, before, Waiting.PULL_ERROR, str(error), delay=RETRY if again else _AGAIN_SOON)


def _config_trouble(state: PodState, container: Container, before: Record, message: str) -> None:
    if (before.waiting, before.message) != (Waiting.CONFIG_ERROR, message):
        state.tell("Failed", f"Error: {message}", type="Warning", container=container)
    _wait(state, before, Waiting.CONFIG_ERROR, message, delay=RETRY)


def _wait(state: PodState, before: Record, reason: Waiting, message: str, *, delay: float) -> None:
    state.put(msgspec.structs.replace(before, waiting=reason, message=message, not_before=time.time() + delay))
