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
