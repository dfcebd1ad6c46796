"""core/v1 Container and what it is made of."""

import msgspec

Quantity = str | int | float


class Selector(msgspec.Struct, frozen=True):
    """A key of a ConfigMap or a Secret (core/v1 ConfigMapKeySelector, SecretKeySelector), or all of one."""

    name: str = ""
    key: str = ""
    optional: bool = False


class FieldRef(msgspec.Struct, frozen=True):
    """core/v1 ObjectFieldSelector."""

    fieldPath: str = ""


class ResourceRef(msgspec.Struct, frozen=True):
    """core/v1 ResourceFieldSelector."""

    resource: str = ""
    containerName: str = ""
    divisor: Quantity = "0"


class EnvSource(msgspec.Struct, frozen=True):
    """core/v1 EnvVarSource."""

    fieldRef: FieldRef | None = None
    resourceFieldRef: ResourceRef | None = None
    configMapKeyRef: Selector | None = None
    secretKeyRef: Selector | None = None


class EnvVar(msgspec.Struct, frozen=True):
    """core/v1 EnvVar."""

    name: str
    value: str = ""
    valueFrom: EnvSource | None = None


class EnvFrom(msgspec.Struct, frozen=True):
    """core/v1 EnvFromSource."""

    prefix: str = ""
    configMapRef: Selector | None = None
    secretRef: Selector | None = None


class VolumeMount(msgspec.Struct, frozen=True):
    """core/v1 VolumeMount."""

    name: str
    mountPath: str
    readOnly: bool = False
    subPath: str = ""
    subPathExpr: str = ""


class Capabilities(msgspec.Struct, frozen=True):
    """core/v1 Capabilities."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(msgspec.Struct, frozen=True):
    """core/v1 SecurityContext, as far as it means something here."""

    privileged: bool = False
    capabilities: Capabilities = Capabilities()
    runAsUser: int | None = None
    runAsGroup: int | None = None
    runAsNonRoot: bool | None = None
    readOnlyRootFilesystem: bool = False
    allowPrivilegeEscalation: bool | None = None


class ContainerPort(msgspec.Struct, frozen=True):
    """core/v1 ContainerPort."""

    containerPort: int
    name: str = ""
    hostPort: int = 0
    protocol: str = "TCP"


class Resources(msgspec.Struct, frozen=True):
    """core/v1 ResourceRequirements."""

    limits: dict[str, Quantity] = {}
    requests: dict[str, Quantity] = {}


class HttpHeader(msgspec.Struct, frozen=True):
    """core/v1 HTTPHeader."""

    name: str
    value: str = ""


class HttpGet(msgspec.Struct, frozen=True):
    """core/v1 HTTPGetAction."""

    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    httpHeaders: tuple[HttpHeader, ...] = ()


class TcpSocket(msgspec.Struct, frozen=True):
    """core/v1 TCPSocketAction."""

    port: int | str
    host: str = ""


class ExecAction(msgspec.Struct, frozen=True):
    """core/v1 ExecAction."""

    command: tuple[str, ...] = ()


class GrpcAction(msgspec.Struct, frozen=True):
    """core/v1 GRPCAction."""

    port: int
    service: str = ""


class SleepAction(msgspec.Struct, frozen=True):
    """core/v1 SleepAction."""

    seconds: int = 0


class Probe(msgspec.Struct, frozen=True, rename={"command": "exec"}):
    """core/v1 Probe; times are whole seconds."""

    command: ExecAction | None = None
    httpGet: HttpGet | None = None
    tcpSocket: TcpSocket | None = None
    grpc: GrpcAction | None = None
    initialDelaySeconds: int = 0
    periodSeconds: int = 10
    timeoutSeconds: int = 1
    successThreshold: int = 1
    failureThreshold: int = 3
    terminationGracePeriodSeconds: int | None = None


class Handler(msgspec.Struct, frozen=True, rename={"command": "exec"}):
    """core/v1 LifecycleHandler."""

    command: ExecAction | None = None
    httpGet: HttpGet | None = None
    tcpSocket: TcpSocket | None = None
    sleep: SleepAction | None = None


class Lifecycle(msgspec.Struct, frozen=True):
    """core/v1 Lifecycle."""

    postStart: Handler | None = None
    preStop: Handler | None = None


class Container(msgspec.Struct, frozen=True):
    """core/v1 Container."""

    name: str
    image: str = ""
    imagePullPolicy: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    workingDir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env: tuple[EnvVar, ...] = ()
    envFrom: tuple[EnvFrom, ...] = ()
    resources: Resources = Resources()
    restartPolicy: str = ""
    volumeMounts: tuple[VolumeMount, ...] = ()
    livenessProbe: Probe | None = None
    readinessProbe: Probe | None = None
    startupProbe: Probe | None = None
    lifecycle: Lifecycle = Lifecycle()
    terminationMessagePath: str = "/dev/termination-log"
    terminationMessagePolicy: str = "File"
    securityContext: SecurityContext = SecurityContext()
    stdin: bool = False
    stdinOnce: bool = False
    tty: bool = False

    def port(self, wanted: int | str) -> int | None:
        """Returns a port number for a number or a port's name; None if there is no such name."""
        if isinstance(wanted, int):
            return wanted
        if wanted.isascii() and wanted.isdigit():
            return int(wanted)
        return next((port.containerPort for port in self.ports if port.name == wanted), None)
