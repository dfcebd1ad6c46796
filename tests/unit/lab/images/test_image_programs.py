"""The programs that run in pods, run here as the plain scripts they are."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import isthmus
from isthmus.model import durations

SOURCE = Path(isthmus.__file__).parents[1]


def script(name: str, *args: str) -> list[str]:
    """Runs a program as pods do: without site-packages."""
    start = "import sys; sys.path.insert(0, sys.argv[1]); from {0} import main; sys.exit(main(sys.argv[2:]))"
    module = f"isthmus.lab.images.programs.{name}"
    return [sys.executable, "-ISc", start.format(module), str(SOURCE), *args]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The HTTP port of a netexec whose UDP port is the next one."""
    port = free_port()
    process = subprocess.Popen(script("agnhost", "netexec", f"--http-port={port}", f"--udp-port={port}"))
    wait_for_server(port, process)
    yield port
    process.terminate()
    assert process.wait(timeout=10) == 0


def wait_for_server(port: int, process: subprocess.Popen[bytes]) -> None:
    import time

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.01)
    pytest.fail("the server does not listen")


def wget(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(script("wget", *args), capture_output=True, text=True, timeout=20, check=False)


def test_netexec_tells_its_name_and_its_client(server: int) -> None:
    assert wget("-qO-", f"http://127.0.0.1:{server}/hostname").stdout == socket.gethostname()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", wget("-qO-", f"http://127.0.0.1:{server}/clientip").stdout)
    assert wget("-q", "-O", "-", "-T", "2", f"http://127.0.0.1:{server}/echo?msg=a+b%21").stdout == "a b!"
    assert wget("-qO-", f"127.0.0.1:{server}").stdout.startswith("NOW: ")


def test_netexec_answers_datagrams(server: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"echo hello", ("127.0.0.1", server))
        assert client.recv(100) == b"hello"
        client.sendto(b"hostname", ("127.0.0.1", server))
        assert client.recv(300).decode() == socket.gethostname()


def test_wget_says_what_failed(server: int) -> None:
    failed = wget("-qO-", f"http://127.0.0.1:{server}/echo?msg=x&code=404")
    assert (failed.returncode, failed.stderr) == (1, "wget: server returned error: HTTP/1.1 404 Not Found\n")
    refused = wget("-qO-", "--timeout=2", f"http://127.0.0.1:{free_port()}/")
    assert refused.stderr == "wget: can't connect to remote host (127.0.0.1): Connection refused\n"
    assert wget("--nonsense").returncode == 1


def test_wget_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        done = wget("-qO-", "--timeout=0.2", f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert (done.returncode, done.stderr) == (1, "wget: download timed out\n")


def connect(*args: str) -> subprocess.CompletedProcess[str]:
    words = script("agnhost", "connect", *args)
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)


def test_connect_keeps_agnhosts_contract(server: int) -> None:
    assert connect(f"127.0.0.1:{server}", "--timeout=2s").returncode == 0
    assert connect(f"127.0.0.1:{server}", "--protocol", "udp", "--timeout", "2s").returncode == 0
    refused = connect(f"127.0.0.1:{free_port()}", "--timeout=2s")
    assert (refused.returncode, refused.stderr) == (1, "REFUSED\n")
    assert connect("no-such-host.invalid:80", "--timeout=2s").stderr.startswith("DNS: ")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        done = connect(f"127.0.0.1:{silent.getsockname()[1]}", "--protocol=udp", "--timeout=100ms")
    assert (done.returncode, done.stderr) == (1, "TIMEOUT\n")


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), (".5s", 0.5), ("500ms", 0.5), ("2s", 2), ("1m30s", 90), ("1h", 3600)]
)
def test_durations_are_read_as_go_reads_them(text: str, value: float) -> None:
    assert durations.seconds(text) == pytest.approx(value)
