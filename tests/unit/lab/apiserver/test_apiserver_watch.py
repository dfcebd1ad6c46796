"""Watches: order, selection, bookmarks, lost places."""

import asyncio
from typing import Any

import pytest

from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.http import watching
from isthmus.lab.apiserver.inputs.selectors import Selection
from isthmus.lab.apiserver.schema.kinds import Registry
from isthmus.lab.apiserver.storage import watchcache
from isthmus.lab.apiserver.storage.watchcache import Cache, Change, encode
from tests.support.apihttp import Api

MAPS = "/api/v1/namespaces/default/configmaps"
RESOURCE = Registry().get("configmaps")


def config_map(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


async def test_a_watch_begins_with_what_there_is(api: Api) -> None:
    await api.create(MAPS, config_map("a"))
    async with api.watch(f"{MAPS}?watch=1") as events:
        kind, value = await events.next()
        assert (kind, value["metadata"]["name"], value["kind"]) == ("ADDED", "a", "ConfigMap")
        await api.patch(f"{MAPS}/a", {"data": {"x": "y"}})
        assert (await events.next())[0] == "MODIFIED"
        await api.send("DELETE", f"{MAPS}/a")
        kind, value = await events.next()
        assert (kind, value["data"]) == ("DELETED", {"x": "y"})


async def test_a_watch_from_a_version_tells_what_was_missed(api: Api) -> None:
    version = (await api.get(MAPS))["metadata"]["resourceVersion"]
    for name in "abc":
        await api.create(MAPS, config_map(name))
    async with api.watch(f"{MAPS}?watch=1&resourceVersion={version}") as events:
        assert [(await events.next())[1]["metadata"]["name"] for _ in "abc"] == ["a", "b", "c"]


async def test_leaving_a_selection_is_a_deletion(api: Api) -> None:
    async with api.watch(f"{MAPS}?watch=1&labelSelector=on%3Dyes") as events:
        await api.create(MAPS, config_map("a"))
        await api.create(MAPS, config_map("b", on="yes"))
        assert (await events.next())[1]["metadata"]["name"] == "b"
        await api.patch(f"{MAPS}/a", {"metadata": {"labels": {"on": "yes"}}})
        assert [(await events.next())[0]] == ["ADDED"]
        await api.patch(f"{MAPS}/b", {"metadata": {"labels": {"on": "no"}}})
        kind, value = await events.next()
        assert (kind, value["metadata"]["name"]) == ("DELETED", "b")


async def test_one_object_can_be_watched(api: Api) -> None:
    async with api.watch(f"{MAPS}?watch=1&fieldSelector=metadata.name%3Db") as events:
        await api.create(MAPS, config_map("a"))
        await api.create(MAPS, config_map("b"))
        assert (await events.next())[1]["metadata"]["name"] == "b"


async def test_a_watch_list_ends_its_beginning_with_a_marked_bookmark(api: Api) -> None:
    for name in "ab":
        await api.create(MAPS, config_map(name))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with api.watch(f"{MAPS}?{query}") as events:
        assert [(await events.next())[0] for _ in "ab"] == ["ADDED", "ADDED"]
        kind, value = await events.next()
        assert kind == "BOOKMARK"
        assert value["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert int(value["metadata"]["resourceVersion"]) >= 2
        await api.create(MAPS, config_map("c"))
        assert (await events.next())[1]["metadata"]["name"] == "c"


async def test_bookmarks_tell_how_far_a_quiet_watch_has_come(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BOOKMARK_INTERVAL", 0.01)
    async with api.watch(f"{MAPS}?watch=1&allowWatchBookmarks=true") as events:
        kind, value = await events.next()
        assert (kind, value["kind"]) == ("BOOKMARK", "ConfigMap")
        version = int(value["metadata"]["resourceVersion"])
        await api.create("/api/v1/namespaces", {"metadata": {"name": "elsewhere"}})
        while int(value["metadata"]["resourceVersion"]) <= version:
            kind, value = await events.next()


async def test_a_watch_ends_when_its_time_is_up_or_the_server_stops(api: Api) -> None:
    async with api.watch(f"{MAPS}?watch=1&timeoutSeconds=1") as events:
        assert await events.ended()
    async with api.watch(f"{MAPS}?watch=1") as events:
        api.state.end_watches()
        assert await events.ended()


async def test_a_version_that_is_too_old_is_expired(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchcache, "MAX_HISTORY", 2)
    version = (await api.get(MAPS))["metadata"]["resourceVersion"]
    for name in "abcd":
        await api.create(MAPS, config_map(name))
    async with api.watch(f"{MAPS}?watch=1&resourceVersion={version}") as events:
        kind, value = await events.next()
        assert (kind, value["code"], value["reason"]) == ("ERROR", 410, "Expired")
        assert await events.ended()
    page = (await api.get(f"{MAPS}?limit=1"))["metadata"]["continue"]
    for name in "efg":
        await api.create(MAPS, config_map(name))
    code, body = await api.send("GET", f"{MAPS}?limit=1&continue={page}")
    assert (code, body["reason"]) == (410, "Expired")


async def test_a_slow_watcher_is_dropped_and_delays_nobody(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchcache, "MAX_PENDING", 3)
    async with api.watch(f"{MAPS}?watch=1") as events:
        cache = api.state.cache(RESOURCE)
        async with asyncio.timeout(10):
            while not cache.watchers:
                await asyncio.sleep(0)
        (watcher,) = cache.watchers
        for number in range(5):  # in one go, as a burst that comes faster than it can be sent
            value = {"metadata": {"name": f"n{number}", "namespace": "default", "resourceVersion": "1"}}
            watcher.offer(Change(None, encode(RESOURCE, value)))
        kind, value = await events.next()
        assert (kind, value["code"]) == ("ERROR", 410)
        assert await events.ended()
    assert not cache.watchers
    await api.create(MAPS, config_map("a"))


async def test_tables_are_made_for_lists_objects_and_watches(api: Api) -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    await api.create(MAPS, {**config_map("a"), "data": {"x": "1", "y": "2"}})
    table = await api.get(MAPS, Accept=accept)
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert table["rows"][0]["cells"][:2] == ["a", 2]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert "object" not in (await api.get(f"{MAPS}?includeObject=None", Accept=accept))["rows"][0]
    whole = await api.get(f"{MAPS}/a?includeObject=Object", Accept=accept)
    assert whole["rows"][0]["object"]["data"] == {"x": "1", "y": "2"}
    partial = await api.get(MAPS, Accept="application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
    assert (partial["kind"], list(partial["items"][0])) == (
        "PartialObjectMetadataList",
        ["kind", "apiVersion", "metadata"],
    )


def cache_with(count: int) -> Cache:
    cache = Cache(RESOURCE, horizon=0)
    for version in range(1, count + 1):
        value = {"metadata": {"name": f"n{version % 3}", "resourceVersion": str(version)}, "data": {"v": str(version)}}
        after = encode(RESOURCE, value)
        cache.apply(Change(cache.objects.get(("", after.name)), after, deleted=version % 5 == 0))
    return cache


def test_the_past_is_what_it_was() -> None:
    whole = cache_with(30)
    for version in range(31):
        assert whole.at(version) == cache_with(version).objects, version


def test_history_is_bounded_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchcache, "MAX_HISTORY_BYTES", 300)
    cache = cache_with(30)
    assert cache.horizon > 20
    with pytest.raises(ApiError, match="too old resource version"):
        cache.watch(namespace="", selection=Selection(), since=1)
