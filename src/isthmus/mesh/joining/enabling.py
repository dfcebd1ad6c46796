"""Making a cluster ready to take part in the mesh, and undoing that.

Invariants: what can be refused is refused before anything is written; enabling again brings everything to what it
should be and changes nothing that is so already; disabling takes away what enabling made and nothing else, and not
while other clusters hang on it unless it is told to.
"""

import asyncio
import datetime
from typing import TYPE_CHECKING

import msgspec

from isthmus import __version__
from isthmus.kube.errors import KubeError, NotFound
from isthmus.kube.resources import SECRETS, SERVICE_ACCOUNTS
from isthmus.kube.schema import Bare, Secret
from isthmus.mesh.clusters import ClustersError, own_cluster
from isthmus.mesh.joining import objects
from isthmus.mesh.joining.members import JoiningError, Member, Tell
from isthmus.mesh.membership import DEPLOYMENT, NAMESPACE, PEERS, Configuration
from isthmus.policy.rules import Scope

if TYPE_CHECKING:
    from isthmus.mesh.joining.certificates import Pair

IMAGE = f"isthmus:{__version__}"
_MAX_IMAGE = 1024
"""Characters."""


class Wishes(msgspec.Struct, frozen=True):
    """What `enable` was asked for; None and "" leave what there is."""

    service_type: str = ""
    cluster_name: str = ""
    cluster_id: int | None = None
    image: str = ""
    scope: Scope | None = None
    definitions: bool = True
    """Whether to apply the CustomResourceDefinitions; somebody may have done so."""


async def enable(member: Member, wishes: Wishes, *, tell: Tell) -> Configuration:
    """Makes a cluster ready for the mesh and returns what it is there. Raises JoiningError, KubeError."""
    tell("✨ Validating cluster configuration...")
    known, service = await asyncio.gather(member.configuration(), member.service())
    service_type = wishes.service_type or (service.spec.type if service is not None else "")
    if service_type not in objects.SERVICE_TYPES:
        raise JoiningError(
            "cannot tell how other clusters may reach this one; say --service-type " + "|".join(objects.SERVICE_TYPES)
        )
    if len(wishes.image) > _MAX_IMAGE or not wishes.image.isprintable() or " " in wishes.image:
        raise JoiningError("--image: not the name of an image")
    wanted = _configuration(known, wishes)
    if known is not None and known.cluster != wanted.cluster:
        await _refuse_new_identity(member, known, wanted)
    tell(f'✅ Valid cluster identification found: name="{wanted.cluster.name}" id="{wanted.cluster.id}"')
    if wishes.definitions:
        await member.apply(objects.definitions())
    made = [objects.config_map(wanted), objects.remote_role(), *objects.service(wanted, service_type=service_type)]
    if wanted.tracker == DEPLOYMENT:
        tell(f"✨ Deploying {objects.TRACKER} and {objects.AGENT}...")
        secrets, digest = await _certificates(member, wanted)
        await member.apply([*made, *objects.accounts(), *secrets])
        await member.apply(objects.workloads(wanted, image=await _image(member, wishes), certificates=digest))
    else:
        tell(f"✨ Exposing {objects.TRACKER}, which the lab runs...")
        await member.apply(made)
    tell(f"✅ Cluster mesh is enabled in cluster {wanted.cluster.name}")
    return wanted


async def disable(member: Member, *, force: bool, tell: Tell) -> None:
    """Takes away what `enable` made. Raises JoiningError while clusters are connected, unless forced; KubeError."""
    known, service = await asyncio.gather(member.configuration(), member.service())
    if service is None:
        tell(f"ℹ️  Cluster mesh is not enabled in context {member.context}: nothing to take away")
        return
    peers, readers = sorted(await member.peers()), await _readers(member)
    others = sorted({*peers, *readers} - ({known.cluster.name} if known is not None else set()))
    if others and not force:
        raise JoiningError(
            f"clusters are connected: {', '.join(others)}; disconnect them first "
            f"('isthmus clustermesh disconnect --context {member.context} --destination-context CONTEXT'), "
            "or say --force"
        )
    tell(f"✨ Removing the cluster mesh from context {member.context}...")
    for other in readers:
        await member.revoke(other)
    gone = [{"kind": "Secret", "metadata": {"name": PEERS, "namespace": NAMESPACE}}]
    if known is None or known.tracker == DEPLOYMENT:
        blank = known or Configuration(own_cluster("unknown", 1))
        gone += objects.workloads(blank, image=IMAGE, certificates=b"")
        gone += objects.accounts()
        gone += [
            {"kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}}
            for name in (objects.CLIENT, objects.SERVER, objects.AUTHORITY)
        ]
    gone.append(objects.remote_role())
    if known is not None and known.tracker == DEPLOYMENT:
        # Where the lab runs tracker and agents it also made these, and goes on using them.
        lease = {"kind": "Lease", "metadata": {"name": objects.TRACKER, "namespace": NAMESPACE}}
        gone += [lease, *objects.definitions(), objects.config_map(known)]
    # Last, because it says that there is something to take away, also to who repeats this after a failure.
    gone += reversed(objects.service(known or Configuration(own_cluster("unknown", 1)), service_type="ClusterIP"))
    await member.remove(gone)
    tell(f"✅ Cluster mesh is disabled in context {member.context}")


async def _readers(member: Member) -> list[str]:
    """Returns the clusters that have an account here."""
    accounts = await member.client.list_all(
        SERVICE_ACCOUNTS, type=Bare, namespace=NAMESPACE, label_selector=objects.REMOTE_LABEL
    )
    return sorted(account.metadata.labels[objects.REMOTE_LABEL] for account in accounts)


def _configuration(known: Configuration | None, wishes: Wishes) -> Configuration:
    name = wishes.cluster_name or (known.cluster.name if known is not None else "")
    number = wishes.cluster_id
    if number is None:
        number = known.cluster.id if known is not None else 0
    if not name:
        raise JoiningError("the cluster has no name in the mesh yet; say --cluster-name NAME --cluster-id ID")
    if not number:
        raise JoiningError("cluster ID 0 is that of clusters outside a mesh; say --cluster-id with 1-255")
    try:
        cluster = own_cluster(name, number)
    except ClustersError as error:
        raise JoiningError(str(error)) from None
    found = msgspec.structs.replace(known, cluster=cluster) if known is not None else Configuration(cluster)
    if wishes.scope is None or wishes.scope is found.scope:
        return found
    if found.tracker != DEPLOYMENT:
        raise JoiningError(f"--policy-scope: the lab's agents were told {found.scope.value} when the cluster was made")
    return msgspec.structs.replace(found, scope=wishes.scope)


async def _refuse_new_identity(member: Member, known: Configuration, wanted: Configuration) -> None:
    """Raises JoiningError where the name or the number cannot be changed any more."""
    before = f"{known.cluster.name} (id {known.cluster.id})"
    if known.tracker != DEPLOYMENT:
        raise JoiningError(f"context {member.context} is cluster {before}; the lab gave it that name and id")
    others = sorted({*await member.peers(), *await _readers(member)} - {known.cluster.name})
    if others:
        raise JoiningError(
            f"context {member.context} is cluster {before}, and clusters are connected to it as such: "
            f"{', '.join(others)}; disconnect them before you make it {wanted.cluster.name} (id {wanted.cluster.id})"
        )


async def _certificates(member: Member, configuration: Configuration) -> tuple[list[objects.Manifest], bytes]:
    """Returns the Secrets with certificates, and what changes when one of them does."""
    # Here, because it is the heaviest import of all and clusters of the lab need none of it.
    from isthmus.mesh.joining.certificates import authority, from_secret, leaf

    names = (objects.AUTHORITY, objects.SERVER, objects.CLIENT)
    found = await asyncio.gather(*(_data(member, name) for name in names))
    known: dict[str, Pair | None] = dict(zip(names, map(from_secret, found), strict=True))
    now = datetime.datetime.now(datetime.UTC)
    cluster = configuration.cluster.name
    signer = authority(known[objects.AUTHORITY], name=f"isthmus {cluster}", now=now)
    service = objects.TRACKER
    hosts = [
        f"{service}.{NAMESPACE}.svc",
        service,
        f"{service}.{NAMESPACE}",
        f"{service}.{NAMESPACE}.svc.cluster.local",
        "localhost",
        "127.0.0.1",
    ]
    server = leaf(known[objects.SERVER], signer=signer, common_name="etcd", hosts=hosts, now=now)
    client = leaf(known[objects.CLIENT], signer=signer, common_name=f"{objects.AGENT}:{cluster}", now=now)
    ca = signer.certificate
    pairs = {objects.AUTHORITY: signer, objects.SERVER: server, objects.CLIENT: client}
    made = [objects.tls_secret(name, certificate=p.certificate, key=p.key, ca=ca) for name, p in pairs.items()]
    return made, ca + server.certificate + client.certificate


async def _data(member: Member, name: str) -> dict[str, bytes]:
    try:
        return (await member.client.get(SECRETS, name, type=Secret, namespace=NAMESPACE)).data
    except NotFound:
        return {}


async def _image(member: Member, wishes: Wishes) -> str:
    """Returns the image that is asked for, else the one that runs already, else that of this version."""
    if wishes.image:
        return wishes.image
    try:
        resource = objects.resource_of({"kind": "Deployment"})
        found = await member.client.get(resource, objects.TRACKER, type=dict, namespace=NAMESPACE)
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"])
    except (KubeError, KeyError, IndexError, TypeError):
        return IMAGE
