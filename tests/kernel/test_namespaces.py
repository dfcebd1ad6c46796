"""Network namespaces: functions run inside, sockets stay inside, callers stay outside."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.kernel.errors import KernelError
from isthmus.kernel.namespaces import inside, inside_descriptor, new_namespace
from tests.support.netns import World


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_a_function_runs_inside_and_the_caller_stays_outside():
    before = here()
    descriptor = new_namespace()
    try:
        assert inside_descriptor(descriptor, here) == os.fstat(descriptor).st_ino != before
        assert here() == before
    finally:
        os.close(descriptor)


def test_a_namespace_can_be_named_by_path_and_by_process(node: World):
    wanted = os.fstat(node.router.descriptor).st_ino
    assert inside(Path(f"/proc/self/fd/{node.router.descriptor}"), here) == wanted
    with node.router.run(lambda: subprocess.Popen(["cat"], stdin=subprocess.PIPE)) as child:
        assert inside(child.pid, here) == wanted


def test_a_socket_stays_in_the_namespace_it_was_made_in(node: World):
    elsewhere = new_namespace()
    try:
        with node.router.run(lambda: socket.create_server(("10.0.0.1", 80))):
            with inside_descriptor(node.router.descriptor, socket.socket) as client:
                client.connect(("10.0.0.1", 80))
            with inside_descriptor(elsewhere, socket.socket) as outside, pytest.raises(OSError):
                outside.connect(("10.0.0.1", 80))
    finally:
        os.close(elsewhere)


def test_what_a_function_raises_comes_out(node: World):
    with pytest.raises(ZeroDivisionError):
        inside_descriptor(node.router.descriptor, lambda: 1 // 0)


def test_a_missing_namespace_is_named():
    with pytest.raises(KernelError, match="/run/netns/absent: No such file"):
        inside("/run/netns/absent", here)


def test_a_file_that_is_no_namespace_is_refused(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(KernelError, match="EINVAL"):
        inside(file, here)


def test_a_program_that_may_only_administer_networks_works_in_its_own_namespace(node: World):
    confined = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs"]
    words = [*confined, sys.executable, "-m", "isthmus", "agent", "probe"]
    done = node.router.run(lambda: subprocess.run(words, capture_output=True, text=True, timeout=60, check=False))
    assert done.returncode == 0, done.stdout + done.stderr
