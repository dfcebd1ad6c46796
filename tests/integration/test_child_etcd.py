"""The child etcd: started, killed, restarted, locked, and read-only for everyone but its owner."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from isthmus.aio.backoff import Backoff
from isthmus.store.access import ensure_access
from isthmus.store.child import ChildError, ChildEtcd, ServerTls
from isthmus.store.client import Client
from isthmus.store.contract import Put
from isthmus.store.epoch import ensure_epoch
from isthmus.store.errors import Denied, NoSpace, Refused, StoreError, Unavailable
from isthmus.store.follow import Changes, Snapshot, follow
from isthmus.store.transport import Tls
from isthmus.wire import kvstore
from isthmus.wire.kvstore import Kind
from tests.support.certificates import Authority
from tests.support.etcd import free_port, needs_etcd

pytestmark = [needs_etcd, pytest.mark.etcd]


def child(directory: Path, *, port: int | None = None, **options) -> ChildEtcd:
    return ChildEtcd(directory, listen=f"http://127.0.0.1:{port or free_port()}", fsync=False, **options)


async def settled(client: Client, action):
    """Repeats `action` while the server is away."""
    while True:
        try:
            return await action()
        except Unavailable:
            await asyncio.sleep(0.02)


async def test_it_keeps_its_data_over_a_restart_of_ours(tmp_path):
    port = free_port()
    for expected in (None, b"1"):
        async with child(tmp_path, port=port) as etcd:
            client = etcd.client()
            _, pair = await client.get(b"a")
            assert (pair.value if pair else None) == expected
            await client.commit([Put(b"a", b"1")])
            await client.close()


async def test_fresh_directories_have_different_cluster_ids(tmp_path):
    """A plain single-member etcd has the same ids on every fresh directory; readers of Cilium's compare them."""
    ids = set()
    for name in ("one", "two"):
        async with child(tmp_path / name) as etcd:
            client = etcd.client()
            ids.add((await client.status()).header.cluster_id)
            await client.close()

    assert len(ids) == 2


async def test_killed_it_comes_back_with_all_that_was_acknowledged_and_watchers_resume(tmp_path):
    async with child(tmp_path) as etcd, asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(etcd.serve())
        client = etcd.client()
        await ensure_epoch(client)
        backoff = Backoff(base=0.02, cap=0.05)
        async with aclosing(follow(client, b"p/", backoff=backoff)) as items:
            assert isinstance(await anext(items), Snapshot)
            for round_ in range(2):
                value = str(round_).encode()
                await client.commit([Put(b"p/a", value)])
                item = await anext(items)
                assert [event.value for event in item.events] == [value]
                first = etcd.pid
                os.kill(first, signal.SIGKILL)
                assert (await settled(client, lambda: client.get(b"p/a")))[1].value == value
                assert etcd.pid != first
            await client.commit([Put(b"p/a", b"last")])
            item = await anext(items)

        assert isinstance(item, Changes)
        assert [event.value for event in item.events] == [b"last"]
        assert etcd.restarts == 2
        await client.close()
        keeper.cancel()


async def test_a_second_owner_of_a_data_directory_is_told_who_has_it(tmp_path):
    async with child(tmp_path):
        with pytest.raises(ChildError, match=f"in use by process {os.getpid()}"):
            async with child(tmp_path):
                raise AssertionError("started twice")


async def test_a_missing_program_is_named_with_its_package(tmp_path):
    with pytest.raises(ChildError, match="etcd-server"):
        async with child(tmp_path, program="etcd-that-is-not-there"):
            raise AssertionError("started")


async def test_a_port_in_use_is_reported_with_etcds_own_words(tmp_path):
    port = free_port()
    async with child(tmp_path / "a", port=port):
        with pytest.raises(ChildError, match="address already in use"):
            async with child(tmp_path / "b", port=port):
                raise AssertionError("started")


async def test_a_data_directory_that_is_no_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ChildError, match="data directory"):
        async with child(tmp_path / "file" / "data"):
            raise AssertionError("started")


async def test_a_damaged_data_directory_is_reported_with_etcds_own_words(tmp_path):
    async with child(tmp_path) as etcd:
        client = etcd.client()
        await client.commit([Put(b"a", b"1")])
        await client.close()
    for snapshot in (tmp_path / "etcd" / "member" / "wal").glob("*.wal"):
        snapshot.write_bytes(b"\xff" * 4096)

    with pytest.raises(ChildError, match=r"etcd .*: .+"):
        async with child(tmp_path):
            raise AssertionError("started")


async def test_a_full_database_is_surfaced_and_reads_go_on(tmp_path):
    async with child(tmp_path, quota=1 << 20) as etcd:
        client = etcd.client()
        with pytest.raises(NoSpace):
            for n in range(200):
                await client.commit([Put(str(n).encode(), b"x" * 100_000)])

        assert (await client.get(b"0"))[1] is not None
        assert any("NOSPACE" in error for error in (await client.status()).errors)
        await client.close()


async def test_it_dies_with_a_parent_that_was_killed_and_leaves_no_lock(tmp_path):
    port = free_port()
    code = """
import asyncio, sys
from pathlib import Path
from isthmus.store.child import ChildEtcd
async def main():
    async with ChildEtcd(Path(sys.argv[1]), listen=f"http://127.0.0.1:{sys.argv[2]}", fsync=False) as etcd:
        Path(sys.argv[3]).write_text(str(etcd.pid))
        print(flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(port), str(tmp_path / "pid")], stdout=subprocess.PIPE
    )
    try:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert await asyncio.to_thread(parent.stdout.readline)
        pid = int((tmp_path / "pid").read_text())
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            break
        if state == "Z":
            break
        await asyncio.sleep(0.01)

    async with child(tmp_path, port=port) as etcd:
        assert etcd.pid != pid


async def test_stopping_in_the_middle_of_a_start_leaves_nothing_running(tmp_path):
    etcd = child(tmp_path)
    starting = asyncio.create_task(etcd.__aenter__())
    while etcd.pid is None:
        await asyncio.sleep(0)
    pid = etcd.pid
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting

    assert starting.cancelled()
    assert not Path(f"/proc/{pid}").exists()


class Secure:
    """A child etcd with TLS, and clients of any name."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "pki")
        cert, key = self.authority.issue("server")
        self.url = f"https://127.0.0.1:{free_port()}"
        tls = ServerTls(cert=cert, key=key, ca=self.authority.ca)
        self.etcd = ChildEtcd(directory / "data", listen=self.url, tls=tls, fsync=False)

    def client(self, name: str) -> Client:
        cert, key = self.authority.issue(name)
        return Client([self.url], tls=Tls(ca=self.authority.ca, cert=cert, key=key), timeout=2)


async def test_clients_of_the_store_are_read_only_and_see_what_is_theirs(tmp_path):
    secure = Secure(tmp_path)
    async with secure.etcd as etcd:
        owner = etcd.client()
        await ensure_epoch(owner)
        own = kvstore.endpoint_key("c1", "10.0.0.1", cached=False)
        cached = kvstore.endpoint_key("c2", "10.1.0.1", cached=True)
        await owner.commit([Put(own, b"1"), Put(cached, b"2"), Put(kvstore.config_key("c2"), b"3")])
        shared = kvstore.object_key(Kind.SLICES, "c1", ("demo", "web-1"), cached=False)
        record = kvstore.object_key(Kind.SERVICES, "c1", ("demo", "web"), cached=False)
        await owner.commit([Put(shared, b"4"), Put(record, b"5"), Put(kvstore.seen_key("c2"), b"6")])
        for _ in range(2):
            await ensure_access(owner, cluster="c1", users=[("remote-c2", "remote")])

        local, remote, stranger = secure.client("local-c1"), secure.client("remote-c2"), secure.client("nobody")
        assert (await local.get(own))[1].value == b"1"
        assert (await local.get(cached))[1].value == b"2"
        assert len([page async for page in local.pages(kvstore.ROOT)]) == 1
        assert (await remote.get(own))[1].value == b"1"
        assert (await remote.get(kvstore.EPOCH))[1] is not None
        assert (await remote.get(shared))[1].value == b"4"
        assert (await remote.get(record))[1].value == b"5"
        assert (await local.get(kvstore.seen_key("c2")))[1].value == b"6"
        for key in (cached, kvstore.config_key("c2"), kvstore.seen_key("c2"), kvstore.whole_key("c1")):
            with pytest.raises(Denied):
                await remote.get(key)
        with pytest.raises(Denied):
            async with aclosing(remote.watch(kvstore.ROOT, start_revision=1)) as answers:
                await anext(answers)
        for client in (local, remote):
            with pytest.raises(Denied):
                await client.commit([Put(own, b"forged")])
        with pytest.raises(Denied):
            await stranger.get(own)
        assert (await owner.get(own))[1].value == b"1"
        async with aclosing(follow(local, kvstore.ROOT)) as items:
            assert len((await anext(items)).pairs) == 6
        async with aclosing(follow(local, kvstore.ROOT, until=kvstore.FOR_OTHERS)) as items:
            assert record not in {pair.key for pair in (await anext(items)).pairs}
        for client in (owner, local, remote, stranger):
            await client.close()


async def test_access_is_brought_to_what_is_wanted(tmp_path):
    secure = Secure(tmp_path)
    async with secure.etcd as etcd:
        owner = etcd.client()
        await ensure_access(owner, cluster="old", users=[("remote-x", "local")])
        await ensure_access(owner, cluster="new", users=[("remote-x", "remote")])

        former, reader = secure.client("local-old"), secure.client("remote-x")
        with pytest.raises(Denied):
            await former.get(kvstore.HEARTBEAT)
        assert (await reader.get(kvstore.config_key("new")))[1] is None
        with pytest.raises(Denied):
            await reader.get(kvstore.config_key("old"))
        with pytest.raises(Refused, match="role"):
            await ensure_access(owner, cluster="new", users=[("x", "admin")])
        for client in (owner, former, reader):
            await client.close()


async def test_a_client_without_our_authoritys_certificate_gets_nothing(tmp_path):
    secure = Secure(tmp_path)
    async with secure.etcd:
        other = Authority(tmp_path / "other")
        cert, key = other.issue("root")
        for tls in (Tls(ca=secure.authority.ca), Tls(ca=secure.authority.ca, cert=cert, key=key), Tls(ca=other.ca)):
            client = Client([secure.url], tls=tls, timeout=2)
            with pytest.raises(StoreError):
                await client.get(b"a")
            await client.close()


async def test_missing_certificate_files_are_named(tmp_path):
    with pytest.raises(Refused, match=r"cannot read .*nothing\.crt"):
        Client(["https://127.0.0.1:1"], tls=Tls(ca=tmp_path / "nothing.crt")).link()
    with pytest.raises(ChildError, match=r"cannot read .*server\.crt"):
        tls = ServerTls(cert=tmp_path / "server.crt", key=tmp_path / "server.key", ca=tmp_path / "ca.crt")
        async with ChildEtcd(tmp_path / "data", listen="https://127.0.0.1:1", tls=tls):
            raise AssertionError("started")


async def test_a_data_directory_that_cannot_be_written_is_named(tmp_path):
    """As on a full disk, where the tracker is started again and again until there is room."""
    pki = Authority(tmp_path)
    cert, key = pki.issue("server")
    (tmp_path / "data" / "trusted-ca.pem.new").mkdir(parents=True)
    tls = ServerTls(ca=pki.ca, cert=cert, key=key)
    with pytest.raises(ChildError, match=f"data directory {tmp_path}/data: "):
        async with ChildEtcd(tmp_path / "data", listen=f"https://127.0.0.1:{free_port()}", tls=tls):
            pass


async def test_a_client_moves_on_to_the_next_endpoint(etcd_url):
    client = Client([f"http://127.0.0.1:{free_port()}", etcd_url])

    with pytest.raises(Unavailable):
        await client.get(b"a")
    await settled(client, lambda: client.get(b"a"))
    assert client.endpoint in etcd_url
    await client.close()


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["ftp://a:1"],
        ["http://a"],
        ["http://a:b"],
        ["http://a:1", "https://b:1"],
        ["http://a:1/x"],
        ["http://::1:1"],
    ],
)
def test_endpoints_that_make_no_sense_are_refused(urls):
    with pytest.raises(Refused):
        Client(urls)
