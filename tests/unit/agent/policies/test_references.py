"""What policies refer to: kept small, and told only when a policy could mind."""

import msgspec
import pytest

from isthmus.agent.policies.references import ApiServers, References
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.schema import EndpointSlice, Service


def group(name="g", *cidrs):
    return {"metadata": {"name": name}, "spec": {"externalCIDRs": list(cidrs)}}


def service(name="web", **spec):
    return msgspec.convert(
        {"metadata": {"name": name, "namespace": "x", "labels": {"app": name}}, "spec": spec}, Service
    )


def slice_(name, *addresses, of="web", namespace="x", **conditions):
    metadata = {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": of}}
    endpoints = [{"addresses": [ip], "conditions": conditions} for ip in addresses]
    return msgspec.convert({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints}, EndpointSlice)


@pytest.fixture
def references() -> References:
    return References()


def test_groups_are_told_once_whatever_tells_them(references: References):
    assert references.on_groups(Snapshot((group("g", "10.0.0.0/8"), group("h"))))
    assert not references.on_groups(Snapshot((group("g", "10.0.0.0/8"), group("h"))))
    assert not references.on_groups(Put(group("h")))
    assert references.on_groups(Put(group("h", "192.0.2.0/24")))
    assert references.on_groups(Gone(group("g")))
    assert not references.on_groups(Gone(group("g")))
    assert {name: one.cidrs for name, one in references.groups.items()} == {"h": ("192.0.2.0/24",)}
    assert references.on_groups(Snapshot(()))
    assert references.groups == {}


def test_backends_matter_only_of_services_without_a_selector(references: References):
    references.on_services(Snapshot((service(selector={"app": "web"}), service("outside"))))
    assert not references.on_slices(Snapshot((slice_("web-1", "10.0.0.1"),)))
    assert references.on_slices(Put(slice_("o-1", "203.0.113.4", "203.0.113.3", of="outside")))
    assert not references.on_slices(Put(slice_("o-1", "203.0.113.3", "203.0.113.4", of="outside")))

    assert references.services["x", "web"].addresses == ()
    assert references.services["x", "outside"].addresses == ("203.0.113.3", "203.0.113.4")
    assert references.on_slices(Gone(slice_("o-1", of="outside")))
    assert references.services["x", "outside"].addresses == ()


@pytest.mark.parametrize("services_first", [True, False])
def test_services_and_slices_may_come_in_any_order(references: References, services_first):
    steps = [
        lambda: references.on_services(Snapshot((service(),))),
        lambda: references.on_slices(Snapshot((slice_("web-1", "203.0.113.4"),))),
    ]
    for step in steps if services_first else reversed(steps):
        step()

    assert references.services["x", "web"].addresses == ("203.0.113.4",)


def test_a_slice_that_changes_sides_takes_its_addresses_along(references: References):
    references.on_services(Snapshot((service(), service("other"))))
    references.on_slices(Snapshot((slice_("s", "203.0.113.4"),)))
    assert references.on_slices(Put(slice_("s", "203.0.113.4", of="other")))

    assert references.services["x", "web"].addresses == ()
    assert references.services["x", "other"].addresses == ("203.0.113.4",)


@pytest.mark.parametrize(
    ("conditions", "counts"),
    [
        ({}, True),
        ({"ready": True}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": True, "terminating": False}, False),
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_backends_are_those_that_connections_are_sent_to(references: References, conditions, counts):
    references.on_services(Snapshot((service(),)))
    references.on_slices(Snapshot((slice_("s", "203.0.113.4", **conditions),)))

    assert (references.services["x", "web"].addresses == ("203.0.113.4",)) is counts


def test_addresses_that_nobody_can_have_are_left_out(references: References):
    references.on_services(Snapshot((service(),)))
    references.on_slices(Snapshot((slice_("s", "127.0.0.1", "nonsense", "::ffff:203.0.113.4"),)))

    assert references.services["x", "web"].addresses == ("203.0.113.4",)


def test_the_api_server_is_where_its_slices_say_ready_or_not_and_nobody_elses_count():
    servers = ApiServers()
    own = slice_("kubernetes", "192.0.2.1", of="kubernetes", namespace="default", ready=False)
    also = slice_("more", "192.0.2.2", of="kubernetes", namespace="default")
    servers.take(Snapshot((own, slice_("web-1", "10.0.0.1"), slice_("fake", "10.0.0.2", of="kubernetes"))))
    servers.take(Put(also))
    assert servers.addresses == {"192.0.2.1", "192.0.2.2"}

    servers.take(Put(slice_("more", "192.0.2.2", of="other", namespace="default")))
    assert servers.addresses == {"192.0.2.1"}
    servers.take(Gone(own))
    assert servers.addresses == set()


def test_a_slice_of_another_namespace_takes_nothing_from_the_api_server_whatever_its_name():
    servers = ApiServers()
    own = slice_("kubernetes", "192.0.2.1", of="kubernetes", namespace="default")
    same_name = slice_("kubernetes", "10.0.0.1", of="kubernetes", namespace="x")
    servers.take(Snapshot((own, same_name)))
    assert servers.addresses == {"192.0.2.1"}
    servers.take(Put(same_name))
    servers.take(Gone(same_name))
    assert servers.addresses == {"192.0.2.1"}
