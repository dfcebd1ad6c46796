"""GlobalServices: for each Service that is global here, what every cluster has of it, what is used, and why.

Named as the Service and owned by it, so that it goes with it. The stored status is the memory: what changed is told by
comparing with it, so a restart repeats nothing. Invariants: doing what a plan says and planning again gives nothing;
Events speak of a change once, after it was written. Rejected: a status per client node; nodes say what they see
themselves (MeshNode), and what all of them are told to do is one thing.
"""

from collections.abc import Mapping

import msgspec

from isthmus.kube.meshobjects import DatedCondition, GlobalServiceStatus, SeenPort, ServiceInCluster
from isthmus.kube.resources import GLOBAL_SERVICES, SERVICES
from isthmus.kube.schema import ObjectReference
from isthmus.mesh.control.clusters import stamp
from isthmus.mesh.control.effects import Change, Create, Delete, Effect, Tell
from isthmus.mesh.control.facts import OwnService, protocol_word
from isthmus.mesh.control.objects import OwnerReference, StoredGlobalService, owned_by_service, plain
from isthmus.mesh.control.seeing import Part, parts_of, told_weights
from isthmus.mesh.control.world import Key, World
from isthmus.policy.rules import Problem
from isthmus.services.choice import Choice, choice
from isthmus.services.explaining import Share, explain
from isthmus.services.settings import ORDER, WEIGHT

VALID = "Valid"
CONFLICT = "Conflict"
INVALID = "InvalidAnnotation"

UNKNOWN_CLUSTER = "UnknownCluster"
INVALID_EVENT = "InvalidGlobalService"
FAILED_OVER = "GlobalServiceFailedOver"
RESTORED = "GlobalServiceRestored"
UNAVAILABLE = "GlobalServiceUnavailable"

MOST_CLUSTERS = 255
MOST_SPOKEN = 12
"""Clusters in one line for people."""

LONGEST = 1024
"""Characters of a message."""

HALF = LONGEST // 2 - 1

LIMITS = "EndpointSlices tell kube-proxy neither weights nor which nodes are reachable, and local backends stay in use"


class View(msgspec.Struct, frozen=True):
    """What becomes of a Service that is global here."""

    service: OwnService
    choice: Choice
    parts: Mapping[str, Part]
    shares: Mapping[str, Share]

    @property
    def used(self) -> tuple[str, ...]:
        """Returns the clusters that get new connections, the own one first."""
        return tuple(name for name in self.parts if (share := self.shares.get(name)) is not None and share.used)


def view_of(world: World, key: Key) -> View | None:
    """Returns what becomes of a Service; None if it is not global here."""
    service = world.services.get(key)
    if service is None or not service.settings.is_global:
        return None
    parts = parts_of(world, service)
    chosen = choice(service.settings, own=world.own, told=told_weights(parts), drained=world.drained)
    told = {name: part.counts for name, part in parts.items() if part.shared}
    return View(service, chosen, parts, {share.cluster: share for share in explain(chosen, told)})


def plan(world: World, key: Key, *, now: float, enabled: bool = True, slices: bool = False) -> list[Effect]:
    """Returns what makes a GlobalService what it should be; `now` in Unix seconds.

    With `enabled` False there should be none; `slices` says that a kube-proxy does the work, by EndpointSlices.
    """
    stored = world.global_services.get(key)
    if stored is not None and stored.metadata.deletionTimestamp:
        return []
    view = view_of(world, key) if enabled else None
    if view is None:
        if stored is None:
            return []
        return [Delete(GLOBAL_SERVICES, *key, stored.metadata.uid)]
    owner = owned_by_service(view.service.name, view.service.uid)
    before = stored.status if stored is not None else GlobalServiceStatus()
    status = _status(world, view, before, now=now, slices=slices)
    return [
        *_object(key, stored, owner),
        *_written(key, before, status),
        *_told(world, view, before, status),
    ]


def problems_told(service: OwnService | None) -> tuple[ObjectReference, str] | None:
    """Returns whom to tell of bad annotations, and what; None if they are well."""
    if service is None or not service.settings.problems:
        return None
    return reference(service), spoken_problems(service)


def reference(service: OwnService) -> ObjectReference:
    """Returns how Events name a Service."""
    return ObjectReference(SERVICES.kind, service.namespace, service.name, service.uid, SERVICES.api_version)


def spoken_problems(service: OwnService) -> str:
    """Returns what is wrong with a Service's annotations."""
    return "; ".join(str(problem) for problem in service.settings.problems)[:LONGEST]


def _object(key: Key, stored: StoredGlobalService | None, owner: OwnerReference) -> list[Effect]:
    if stored is None:
        meta = {"namespace": key[0], "name": key[1], "ownerReferences": [plain(owner)]}
        body = {"apiVersion": GLOBAL_SERVICES.api_version, "kind": GLOBAL_SERVICES.kind, "metadata": meta}
        return [Create(GLOBAL_SERVICES, *key, body)]
    if stored.metadata.ownerReferences == (owner,):
        return []
    # The Service was made anew: an owner that is gone would take this object with it.
    return [Change(GLOBAL_SERVICES, *key, {"metadata": {"ownerReferences": [plain(owner)]}})]


def _written(key: Key, before: GlobalServiceStatus, status: GlobalServiceStatus) -> list[Effect]:
    return [Change(GLOBAL_SERVICES, *key, {"status": plain(status)}, status=True)] if status != before else []


def _status(world: World, view: View, before: GlobalServiceStatus, *, now: float, slices: bool) -> GlobalServiceStatus:
    names = list(view.parts)[:MOST_CLUSTERS]
    entries = tuple(_entry(world, view, view.parts[name]) for name in names)
    summary = [f"{entry.name} {entry.ready}/{entry.backends}" for entry in entries]
    settings = view.service.settings
    return GlobalServiceStatus(
        affinity=settings.preference,
        shared=settings.shared,
        summary=_several(summary),
        used=_several(list(view.used)),
        ports=tuple(SeenPort(port.name, protocol_word(port.protocol), port.port) for port in view.service.ports),
        clusters=entries,
        conditions=(_valid(world, view, before, now, slices=slices), _conflict(view, before, now)),
    )


def _entry(world: World, view: View, part: Part) -> ServiceInCluster:
    name = part.cluster
    member, share = world.members.get(name), view.shares.get(name)
    return ServiceInCluster(
        name=name,
        own=name == world.own,
        state=member.state if member is not None else "",
        backends=part.counts.backends,
        ready=part.counts.ready,
        weight=view.choice.weight(name),
        share=share.percent if share is not None else 0,
        used=share is not None and share.used,
        why=_why(world, part, share)[:LONGEST],
        endpoints=part.endpoints,
    )


def _why(world: World, part: Part, share: Share | None) -> str:
    if not part.shared:
        return f"{part.cluster} does not share it"
    if part.misfit is not None and not part.counts.backends:
        return part.misfit.text
    why = share.why if share is not None else ""
    left = world.drained.get(part.cluster)
    if left is not None:
        why += f"; draining, {left} % left" if left else "; drained"
    if world.unheard(part.cluster) and part.cluster != world.own:
        why += "; as last known, not heard since the tracker started"
    return why.removeprefix("; ")


def _valid(world: World, view: View, before: GlobalServiceStatus, now: float, *, slices: bool) -> DatedCondition:
    unknown = _unknown(world, view.service)
    if view.service.settings.problems:
        said = _joined(spoken_problems(view.service), unknown)
        return _dated(DatedCondition(VALID, "False", INVALID, said), before, now)
    return _dated(DatedCondition(VALID, "True", "Accepted", _joined(unknown, LIMITS if slices else "")), before, now)


def _unknown(world: World, service: OwnService) -> str:
    """Returns which clusters a Service's annotations name that are none of the mesh; "" where that is not known.

    They are no fault: who names a cluster before it joins wants it to count from then on.
    """
    if not world.members_known:
        return ""
    told = []
    for key, names in ((ORDER, service.settings.order), (WEIGHT, tuple(service.settings.weights))):
        found = [name for name in names if name != world.own and name not in world.members and name not in world.kept]
        if found:
            what = "is not a member" if len(found) == 1 else "are not members"
            told.append(str(Problem(f"metadata.annotations[{key}]", f"{_several(found)} {what} of the cluster mesh")))
    return "; ".join(told)[:HALF]


def _joined(first: str, second: str) -> str:
    """Returns two texts as one; where both are there, there is room for the second one."""
    return f"{first[:HALF]}; {second}" if first and second else first or second


def _conflict(view: View, before: GlobalServiceStatus, now: float) -> DatedCondition:
    misfits = [part.misfit for part in view.parts.values() if part.misfit is not None]
    if not misfits:
        return _dated(DatedCondition(CONFLICT, "False", "PortsMatch", ""), before, now)
    # Ports that are there under another protocol are told as such only where nothing worse is.
    reason = "PortMismatch" if any(m.reason == "PortMismatch" for m in misfits) else "ProtocolMismatch"
    text = "; ".join(misfit.text for misfit in misfits)[:LONGEST]
    return _dated(DatedCondition(CONFLICT, "True", reason, text), before, now)


def _dated(condition: DatedCondition, before: GlobalServiceStatus, now: float) -> DatedCondition:
    known = _condition(before, condition.type)
    since = known.lastTransitionTime if known is not None and known.status == condition.status else ""
    return msgspec.structs.replace(condition, lastTransitionTime=since or stamp(now))


def _condition(status: GlobalServiceStatus, type: str) -> DatedCondition | None:
    return next((condition for condition in status.conditions if condition.type == type), None)


def _told(world: World, view: View, before: GlobalServiceStatus, status: GlobalServiceStatus) -> list[Effect]:
    """Returns what to say on the Service of how its status changes."""
    about = reference(view.service)
    told: list[Effect] = []
    unknown, valid = _unknown(world, view.service), _condition(before, VALID)
    if unknown and (valid is None or unknown not in valid.message):
        told.append(Tell(about, UNKNOWN_CLUSTER, unknown, "Warning"))
    conflict, known = _condition(status, CONFLICT), _condition(before, CONFLICT)
    if conflict is not None and conflict.status == "True":
        if known is None or (known.status, known.message) != (conflict.status, conflict.message):
            told.append(Tell(about, conflict.reason, conflict.message, "Warning"))
    return told + _moved(world, view, before, status)


def _moved(world: World, view: View, before: GlobalServiceStatus, status: GlobalServiceStatus) -> list[Effect]:
    """Returns what to say of clusters that are used no more, or again, because of how their backends are.

    What people change (annotations, drains, who shares) they know; and who never had a backend fails nobody.
    """
    was, now = _by_name(before), _by_name(status)
    used, using = {name for name in was if was[name].used}, {name for name in now if now[name].used}
    if used == using:
        return []
    about = reference(view.service)
    lost = tuple(sorted(name for name in used - using if was[name].ready and _without_ready(view.parts.get(name))))
    to = _several([name for name in now if name in using])
    if lost and not using:
        text = f"{_several(list(lost))}: no ready backend left, and none elsewhere"
        return [Tell(about, UNAVAILABLE, text, "Warning", lost)]
    if lost:
        text = f"{_several(list(lost))}: no ready backend left; new connections go to {to}"
        return [Tell(about, FAILED_OVER, text, failed=lost)]
    back = sorted(world.failed.get((about.namespace, about.name), frozenset()) & (using - used))
    if back:
        return [Tell(about, RESTORED, f"{_several(back)}: ready backends again; new connections go to {to}")]
    return []


def _without_ready(part: Part | None) -> bool:
    """Whether a cluster gives its backends, and none of them is ready."""
    return part is not None and part.shared and part.misfit is None and not part.counts.ready


def still_failed(world: World, key: Key, effects: list[Effect]) -> frozenset[str]:
    """Returns the clusters that a Service lost and that have no ready backend yet, after `effects` were done."""
    stored = world.global_services.get(key)
    now = _by_name(stored.status) if stored is not None else {}
    lost = {name for effect in effects if isinstance(effect, Tell) for name in effect.failed}
    known = world.failed.get(key, frozenset()) | lost
    return frozenset(name for name in known if name in now and not now[name].ready)


def conflicting(status: GlobalServiceStatus) -> bool:
    """Whether a status tells of ports that do not match."""
    return any(found.type == CONFLICT and found.status == "True" for found in status.conditions)


def _by_name(status: GlobalServiceStatus) -> dict[str, ServiceInCluster]:
    return {entry.name: entry for entry in status.clusters}


def _several(words: list[str]) -> str:
    more = len(words) - MOST_SPOKEN
    return ", ".join(words[:MOST_SPOKEN]) + (f" and {more} more" if more > 0 else "")
