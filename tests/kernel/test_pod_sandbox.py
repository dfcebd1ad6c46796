"""Namespaces, links and containers as the keeper makes them, in namespaces of the test's own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

_PREPARE = """
import asyncio, json, os, pathlib, subprocess, sys
from isthmus.lab.node.keeper.client import Keeper, KeeperError
RUN = pathlib.Path(sys.argv[1])

def sh(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout

def link(number, ip6=""):
    return {"run": str(RUN / f"pod{number}"), "hostname": f"pod{number}", "link": f"veth{number}",
            "ip": f"10.9.0.{number}", "ip6": ip6, "host_ip": "10.8.0.1", "host_ip6": "", "gateway": "169.254.1.1"}

def program(*argv, **more):
    root = RUN / "root"
    root.mkdir(exist_ok=True)
    return {"root": str(root), "binds": [], "privileged": False, "read_only_root": False, "namespaces": [],
            "argv": list(argv), "env": {"PATH": "/usr/bin:/bin"}, "cwd": "", "terminal": False, "capabilities": [],
            "uid": 0, "gid": 0, "groups": [], "no_new_privileges": False, "exit": str(RUN / "exit"), **more}

async def main():
    keeper = Keeper(RUN, log=RUN / "keeper.log")
    print(json.dumps(await test(keeper)))
    keeper.close()

"""


def in_a_world_of_its_own(body: str, tmp_path: Path) -> Any:
    """Runs `test(keeper)` of `body` in new namespaces, which end with it, and returns its result."""
    script = f"{_PREPARE}{body}\nasyncio.run(main())\n"
    world = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    setup = 'ip link set lo up; ip address add 10.8.0.1/32 dev lo; exec "$@"'
    words = [*world, "sh", "-c", setup, "sh", sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_pod_has_its_addresses_and_one_way_out_and_leaves_nothing(tmp_path: Path) -> None:
    body = """
async def test(keeper):
    await keeper.do("sandbox", link(5, "fd00:9::5"))
    inside = ["nsenter", f"--net={RUN}/pod5/net", f"--uts={RUN}/pod5/uts"]
    found = {
        "name": sh(*inside, "uname", "-n").strip(),
        "addresses": sh(*inside, "ip", "-o", "address", "show", "dev", "eth0", "scope", "global"),
        "routes": sh(*inside, "ip", "route") + sh(*inside, "ip", "-6", "route", "show", "default"),
        "node": sh("ip", "route", "show", "dev", "veth5") + sh("ip", "-6", "route", "show", "dev", "veth5"),
        "check": open("/proc/sys/net/ipv4/conf/veth5/rp_filter").read().strip(),
        "ports": sh(*inside, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").strip(),
    }
    await keeper.do("remove", {"run": str(RUN / "pod5"), "link": "veth5"})
    found["links"] = sh("ip", "-brief", "link")
    found["left"] = (RUN / "pod5").exists()
    found["mounts"] = "pod5" in open("/proc/self/mountinfo").read()
    return found
"""
    found = in_a_world_of_its_own(body, tmp_path)
    assert found["name"] == "pod5"
    assert "10.9.0.5/32" in found["addresses"]
    assert "fd00:9::5/128" in found["addresses"]
    assert "tentative" not in found["addresses"]
    assert "default via 169.254.1.1" in found["routes"]
    assert "default via fe80::1" in found["routes"]
    assert "10.9.0.5" in found["node"]
    assert "src 10.8.0.1" in found["node"]
    assert "fd00:9::5" in found["node"]
    assert found["check"] == "1"
    assert found["ports"] == "0"
    assert "veth5" not in found["links"]
    assert (found["left"], found["mounts"]) == (False, False)


def test_what_cannot_be_made_is_told_and_can_be_tried_again(tmp_path: Path) -> None:
    body = """
async def test(keeper):
    said = ""
    try:
        await keeper.do("sandbox", {**link(5), "host_ip": "10.99.99.99"})
    except KeeperError as error:
        said = str(error)
    await keeper.do("sandbox", {**link(5), "run": str(RUN / "again")})
    return said
"""
    assert in_a_world_of_its_own(body, tmp_path)


def test_a_container_has_its_own_root_processes_and_no_foreign_descriptors(tmp_path: Path) -> None:
    body = """
async def test(keeper):
    reader, writer = os.pipe()
    nothing = os.open("/dev/null", os.O_RDWR)
    script = "echo $$; ls /proc/self/fd | wc -l; ls /; grep CapEff /proc/self/status; exit 7"
    result = await keeper.do("start", program("sh", "-c", script), descriptors=[nothing, writer, writer])
    code = await keeper.exit_code(result["pid"])
    os.close(writer)
    return {"code": code, "said": os.read(reader, 65536).decode(), "written": (RUN / "exit").read_text()}
"""
    found = in_a_world_of_its_own(body, tmp_path)
    lines = found["said"].split("\n")
    # PID 1; standard streams and the directory that `ls` reads.
    assert lines[:2] == ["1", "4"]
    assert "usr" in lines
    assert "boot" not in lines
    assert "CapEff:\t0000000000000000" in lines
    assert (found["code"], found["written"]) == (7, "7\n")


def test_a_program_that_there_is_not_is_told_before_anything_counts_as_started(tmp_path: Path) -> None:
    body = """
async def test(keeper):
    nothing = os.open("/dev/null", os.O_RDWR)
    try:
        await keeper.do("start", program("no-such-program"), descriptors=[nothing] * 3)
    except KeeperError as error:
        return str(error)
"""
    assert in_a_world_of_its_own(body, tmp_path) == 'exec: "no-such-program": executable file not found in $PATH'


def test_no_open_file_of_the_keeper_leads_a_container_out_of_its_root(tmp_path: Path) -> None:
    body = """
async def said(keeper, op, spec, **words):
    reader, writer = os.pipe()
    nothing = os.open("/dev/null", os.O_RDWR)
    try:
        result = await keeper.do(op, spec, descriptors=[nothing, writer, writer], **words)
        await keeper.exit_code(result["pid"])
        os.close(writer)
        return "ran: " + os.read(reader, 65536).decode()
    except KeeperError as error:
        os.close(writer)
        return str(error)
    finally:
        os.close(reader)
        os.close(nothing)

async def test(keeper):
    nothing = os.open("/dev/null", os.O_RDWR)
    running = await keeper.do("start", program("sleep", "100"), descriptors=[nothing] * 3)
    words = {"pid": running["pid"], "start": running["start"]}
    found = []
    for number in range(3, 30):
        link = f"/proc/self/fd/{number}"
        for spec in (program("ls", "../../..", cwd=link), program(f"{link}/../../../../../bin/ls")):
            found += [await said(keeper, "start", spec), await said(keeper, "exec", spec, **words)]
    os.kill(running["pid"], 9)
    return found
"""
    for said in in_a_world_of_its_own(body, tmp_path):
        assert "chdir to cwd" in said or "no such file or directory" in said, said


def test_a_working_directory_outside_of_the_container_is_refused(tmp_path: Path) -> None:
    body = """
async def test(keeper):
    nothing = os.open("/dev/null", os.O_RDWR)
    outside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Its standard input is the only open file that a program is given.
        spec = program("ls", cwd="/proc/self/fd/0")
        await keeper.do("start", spec, descriptors=[outside, nothing, nothing])
    except KeeperError as error:
        return str(error)
"""
    expected = 'chdir to cwd ("/proc/self/fd/0") failed: it is outside of the container'
    assert in_a_world_of_its_own(body, tmp_path) == expected


def test_a_link_in_a_shared_volume_leads_no_mount_out_of_the_container(tmp_path: Path) -> None:
    body = """
async def test(keeper):
    for name in ("volume/real", "wanted", "outside"):
        (RUN / name).mkdir(parents=True)
    (RUN / "wanted/file").write_text("wanted")
    (RUN / "volume/out").symlink_to(RUN / "outside")
    (RUN / "volume/up").symlink_to("../.." + str(RUN / "outside"))
    (RUN / "volume/turn").symlink_to("real")
    found = {}
    for target in ("out", "up", "turn"):
        reader, writer = os.pipe()
        nothing = os.open("/dev/null", os.O_RDWR)
        inner = [str(RUN / "wanted"), f"/shared/{target}/new", True, False]
        binds = [[str(RUN / "volume"), "/shared", False, False], inner]
        script = f"cat /shared/{target}/new/file; touch /shared/{target}/new/more || echo refused"
        try:
            spec = program("sh", "-c", script, binds=binds)
            result = await keeper.do("start", spec, descriptors=[nothing, writer, writer])
            await keeper.exit_code(result["pid"])
            os.close(writer)
            found[target] = os.read(reader, 65536).decode()
        except KeeperError as error:
            found[target] = str(error)
    return {**found, "outside": os.listdir(RUN / "outside"), "wanted": os.listdir(RUN / "wanted")}
"""
    found = in_a_world_of_its_own(body, tmp_path)
    assert found["out"] == "mount path '/shared/out/new' leads out of the container"
    assert found["up"] == "mount path '/shared/up/new' leads out of the container"
    assert found["turn"].startswith("wanted")
    assert found["turn"].endswith("refused\n")
    assert (found["outside"], found["wanted"]) == ([], ["file"])
