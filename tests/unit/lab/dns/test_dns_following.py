"""Lists and watches: what is asked next, what is kept."""

from typing import Any

from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.follow import Progress, resources

KEY = (b"shop", b"web")


def service(name: str = "web", *, ip: str = "10.96.0.7", version: str = "5") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": version},
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
    }


def followed() -> tuple[Directory, Progress]:
    directory = Directory()
    return directory, Progress(resources(directory)[0])


def test_a_list_in_pages_then_a_watch() -> None:
    directory, progress = followed()
    assert progress.request() == "/api/v1/services?limit=250"
    progress.page({"metadata": {"continue": "a b", "resourceVersion": "9"}, "items": [service()]})
    assert not progress.synced
    assert progress.request() == "/api/v1/services?limit=250&continue=a%20b"
    progress.page({"metadata": {"resourceVersion": "9"}, "items": [service("db")]})
    assert progress.synced and progress.watching
    assert progress.request().endswith("&resourceVersion=9")
    assert directory.service(KEY) is not None


def test_events_move_the_revision() -> None:
    directory, progress = followed()
    progress.page({"metadata": {"resourceVersion": "9"}, "items": []})
    progress.event({"type": "ADDED", "object": service(version="10")})
    assert directory.service(KEY) is not None
    progress.event({"type": "MODIFIED", "object": service(ip="", version="11")})
    assert directory.service(KEY) is None
    progress.event({"type": "ADDED", "object": service(version="12")})
    progress.event({"type": "DELETED", "object": service(version="13")})
    assert directory.service(KEY) is None
    progress.event({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}})
    assert progress.request().endswith("&resourceVersion=20")


def test_a_lost_revision_means_a_new_list_and_nothing_is_forgotten_before_it_is_whole() -> None:
    directory, progress = followed()
    progress.page({"metadata": {"resourceVersion": "9"}, "items": [service(), service("old")]})
    progress.event({"type": "ERROR", "object": {"code": 410}})
    assert not progress.watching and progress.synced
    progress.page({"metadata": {"continue": "x"}, "items": [service()]})
    assert directory.service((b"shop", b"old")) is not None
    progress.page({"metadata": {"resourceVersion": "30"}, "items": []})
    assert directory.service((b"shop", b"old")) is None and directory.service(KEY) is not None


def test_an_expired_page_begins_the_list_anew() -> None:
    _directory, progress = followed()
    progress.page({"metadata": {"continue": "x"}, "items": []})
    assert progress.listing
    progress.failed(410)
    assert progress.request() == "/api/v1/services?limit=250"


def test_a_server_that_is_away_changes_nothing() -> None:
    directory, progress = followed()
    progress.page({"metadata": {"resourceVersion": "9"}, "items": [service()]})
    before = progress.request()
    progress.failed(0)
    progress.failed(500)
    assert progress.request() == before and directory.service(KEY) is not None


def test_answers_that_make_no_sense_are_passed_over() -> None:
    _directory, progress = followed()
    for body in (None, [], {"items": 7}, {"metadata": 1, "items": [None, 1, {"metadata": {"name": 5}}]}):
        progress.page(body)
        assert not progress.synced
    progress.page({"metadata": {"resourceVersion": "9&x=1"}, "items": []})
    assert not progress.watching
    for event in (None, 5, {}, {"type": "ADDED"}, {"type": "ADDED", "object": []}, {"type": "X", "object": {}}):
        progress.event(event)


IMPORTS = "/apis/multicluster.x-k8s.io/{}/serviceimports?limit=250"


def imported(name: str = "web", **spec: Any) -> dict[str, Any]:
    given = {"type": "ClusterSetIP", "ips": ["10.96.0.9"], "ports": [{"port": 80, "name": "http"}], **spec}
    return {"metadata": {"namespace": "shop", "name": name, "resourceVersion": "5"}, "spec": given}


def test_imports_that_are_not_defined_are_looked_for_in_each_version_and_hold_nobody_up() -> None:
    directory = Directory()
    progress = Progress(resources(Directory(), directory)[-1])
    assert progress.request() == IMPORTS.format("v1beta1")
    progress.failed(404)
    assert not progress.synced and not progress.missing
    assert progress.request() == IMPORTS.format("v1alpha1")
    progress.failed(404)
    assert progress.synced and progress.missing
    assert progress.request() == IMPORTS.format("v1beta1")
    progress.failed(0)
    progress.failed(404)
    progress.page({"metadata": {"resourceVersion": "9"}, "items": [imported()]})
    assert not progress.missing and directory.service(KEY) is not None
    assert progress.request().startswith("/apis/multicluster.x-k8s.io/v1alpha1/serviceimports?watch=1")
    # The definition goes: so do its objects, once no version is there.
    progress.failed(404)
    assert directory.service(KEY) is not None
    progress.failed(404)
    assert directory.service(KEY) is None and progress.synced


def test_other_resources_may_not_be_missing() -> None:
    directory, progress = followed()
    progress.page({"metadata": {"resourceVersion": "9"}, "items": [service()]})
    progress.failed(404)
    assert progress.watching and directory.service(KEY) is not None


def test_slices_go_where_their_labels_say() -> None:
    directory, imports = Directory(), Directory()
    _services, slices, _namespaces, found = (Progress(one) for one in resources(directory, imports))
    found.page({"metadata": {"resourceVersion": "9"}, "items": [imported(type="Headless", ips=None)]})
    item: dict[str, Any] = {
        "metadata": {
            "namespace": "shop",
            "name": "x",
            "labels": {
                "kubernetes.io/service-name": "derived-1",
                "multicluster.kubernetes.io/service-name": "web",
                "multicluster.kubernetes.io/source-cluster": "tion",
            },
        },
        "endpoints": [{"addresses": ["10.1.0.1"], "hostname": "web-0"}],
    }
    slices.page({"metadata": {"resourceVersion": "9"}, "items": [item]})
    web = imports.service(KEY)
    assert web is not None and web.headless
    assert [endpoint.labels for endpoint, _ports in imports.endpoints(web)] == [(b"web-0", b"tion")]
    # Of which cluster is not said: it has no name.
    del item["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"]
    slices.event({"type": "MODIFIED", "object": item})
    assert not list(imports.endpoints(web))
    slices.event({"type": "DELETED", "object": item})


def test_an_import_without_an_address_has_no_name_yet() -> None:
    directory = Directory()
    progress = Progress(resources(Directory(), directory)[-1])
    progress.page({"metadata": {"resourceVersion": "9"}, "items": [imported(ips=[])]})
    assert directory.service(KEY) is None
    progress.event({"type": "MODIFIED", "object": imported(ips=["10.96.0.9", "nonsense"])})
    found = directory.service(KEY)
    assert found is not None and found.addresses == (b"\x0a\x60\x00\x09",)
    progress.event({"type": "MODIFIED", "object": imported(ips=7, ports="x")})
    assert directory.service(KEY) is None
