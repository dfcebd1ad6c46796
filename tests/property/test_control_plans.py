"""Plans of what the tracker writes: doing one leaves nothing to do, whatever happened before, and so does a restart."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.kube.resources import MESH_CLUSTERS
from isthmus.mesh.control import mirrored
from isthmus.mesh.control.world import Member
from isthmus.model import sharing
from isthmus.model.mesh import ClusterSeen, MeshEvent, ServiceGone, ServiceTold, SliceGone, SliceTold
from isthmus.model.sharing import SharedEndpoint, SharedPort, SharedService
from tests.support.control import NOW, Place, remote_slice

CLUSTERS = ("here", "there", "yonder")
KEYS = (("demo", "web"), ("demo", "db"))
Step = Callable[[Place], None]

keys = st.sampled_from(KEYS)
others = st.sampled_from(CLUSTERS[1:])
ready = st.lists(st.booleans(), max_size=3)
notes = st.fixed_dictionaries(
    {"global_": st.sampled_from(["true", "false", "ture"])},
    optional={
        "affinity": st.sampled_from(["local", "remote", "none", "nowhere"]),
        "shared": st.sampled_from(["true", "false"]),
        "order": st.sampled_from(["there", "yonder,here", "-"]),
        "weight": st.sampled_from(["0", "50", "there=0", "there=20,yonder=300", "x"]),
        "sync": st.sampled_from(["true", "false"]),
    },
)
shared_ports = st.lists(
    st.builds(sharing.ServicePort, st.sampled_from(["http", "dns"]), st.sampled_from([6, 17]), st.just(80)), max_size=2
).map(tuple)
slice_ports = st.lists(
    st.builds(SharedPort, st.sampled_from(["http", "dns"]), st.sampled_from([6, 17]), st.sampled_from([0, 8080])),
    max_size=2,
).map(tuple)
endpoints = st.lists(
    st.builds(
        SharedEndpoint,
        st.sampled_from(["10.7.0.1", "10.7.0.2", "127.0.0.1", "x"]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        hostname=st.sampled_from(["", "web-0", "_"]),
    ),
    max_size=3,
).map(tuple)


def told(events: list[MeshEvent]) -> Step:
    return lambda place: place.world.tell(events)


steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(
        lambda key, uid, ip, said: lambda place: place.service(key, uid=uid, cluster_ip=ip, **said),
        keys,
        st.sampled_from(["one", "two"]),
        st.sampled_from(["10.0.0.1", "None"]),
        notes,
    ),
    st.builds(lambda key, up: lambda place: place.backends(*up, key=key), keys, ready),
    st.builds(
        lambda cluster, key, shared, ports, weight: told(
            [ServiceTold(SharedService(cluster, *key, shared=shared, ports=ports, weight=weight))]
        ),
        others,
        keys,
        st.booleans(),
        shared_ports,
        st.sampled_from([0, 100, 250]),
    ),
    st.builds(
        lambda cluster, key, name, found, ports: told(
            [SliceTold(remote_slice(cluster, key=key, name=name, endpoints=found, ports=ports))]
        ),
        others,
        keys,
        st.sampled_from("ab"),
        endpoints,
        slice_ports,
    ),
    st.builds(lambda cluster, key: told([ServiceGone(cluster, key)]), others, keys),
    st.builds(
        lambda cluster, key, name: told([SliceGone(cluster, (key[0], f"{key[1]}-{name}"))]),
        others,
        keys,
        st.sampled_from("ab"),
    ),
    st.builds(
        lambda cluster, since: told([ClusterSeen(cluster, since)]), others, st.sampled_from([None, NOW - 700, NOW])
    ),
    st.builds(lambda on: lambda place: place.namespace("demo", is_global=on), st.sampled_from(["true", "false"])),
    st.builds(lambda known: lambda place: observe(place, known), st.lists(others, unique=True)),
    st.builds(
        lambda cluster, over: lambda place: drain(place, cluster, over), others, st.sampled_from([None, "", "20m"])
    ),
)


def observe(place: Place, names: list[str]) -> None:
    place.members(*names)
    place.observe([Member(name, CLUSTERS.index(name) + 1, "Synced", synced=NOW) for name in ("here", *names)])


def drain(place: Place, cluster: str, over: str | None) -> None:
    body = place.objects.get((MESH_CLUSTERS.plural, "", cluster), {"metadata": {}})
    spec = {} if over is None else {"drain": {"since": "2023-11-14T22:03:20Z", **({"over": over} if over else {})}}
    place.put(MESH_CLUSTERS, {**body, "spec": spec}, name=cluster)


@given(st.lists(steps, max_size=12), st.sampled_from([mirrored.ALL, mirrored.HEADLESS_ONLY, mirrored.OFF]))
@settings(max_examples=150, deadline=None)
def test_doing_a_plan_leaves_nothing_to_do_and_a_new_tracker_agrees(changes: list[Step], mode: str) -> None:
    place, again = Place(), Place()
    place.mode = again.mode = mode
    place.now = again.now = NOW
    observe(place, list(CLUSTERS[1:]))
    for change in changes:
        change(place)
        place.settle()
    place.settle()
    for _ in range(2):
        place.observe(list(place.world.members.values()))
        place.settle()
    place.world.touch_all()
    assert place.settle() == []

    observe(again, list(CLUSTERS[1:]))
    for change in changes:
        change(again)
    again.load(place.objects)
    again.observe(list(place.world.members.values()))
    again.settle()
    again.world.touch_all()
    assert again.settle() == []
    assert meaning(again) == meaning(place)


def meaning(place: Place) -> dict[tuple[str, str, str], object]:
    return {
        key: {part: value for part, value in body.items() if part != "metadata"} for key, body in place.objects.items()
    }
