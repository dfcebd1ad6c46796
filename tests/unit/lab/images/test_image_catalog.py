"""Image names and what they run."""

import pytest

from isthmus.lab.images.builtin import CATALOG
from isthmus.lab.images.catalog import UnknownImage, full_argv, served_ports


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("busybox", "busybox"),
        ("busybox:1.36", "busybox"),
        ("docker.io/library/busybox:1.36", "busybox"),
        ("localhost:5000/busybox@sha256:" + "0" * 64, "busybox"),
        ("registry.k8s.io/e2e-test-images/agnhost:2.39", "agnhost"),
        ("curlimages/curl", "curl"),
        ("registry.k8s.io/pause:3.9", "pause"),
    ],
)
def test_an_image_is_known_by_the_last_part_of_its_repository(reference: str, name: str) -> None:
    assert CATALOG.find(reference).name == name


@pytest.mark.parametrize("reference", ["redis", "busybox-x", "busybox/other", "nginx/nginx-ingress:3"])
def test_an_unknown_one_is_answered_with_those_that_exist(reference: str) -> None:
    with pytest.raises(UnknownImage, match=r"agnhost, busybox, .*pause"):
        CATALOG.find(reference)


def test_command_and_args_override_as_the_api_says() -> None:
    image = CATALOG.find("agnhost")
    assert full_argv(image, command=(), args=()) == ("/agnhost", "pause")
    assert full_argv(image, command=(), args=("netexec",)) == ("/agnhost", "netexec")
    assert full_argv(image, command=("sh",), args=()) == ("sh",)
    assert full_argv(image, command=("sh",), args=("-c", "true")) == ("sh", "-c", "true")


@pytest.mark.parametrize(
    ("argv", "ports"),
    [
        (("/agnhost", "netexec"), (8080,)),
        (("/agnhost", "netexec", "--http-port=80"), (80,)),
        (("/agnhost", "netexec", "--http-port", "81", "--udp-port=8"), (81,)),
        (("/agnhost", "netexec", "--http-port=x"), (8080,)),
        (("/agnhost", "serve-hostname"), (9376,)),
        (("/agnhost", "pause"), ()),
        (("/agnhost",), ()),
        (("sh", "-c", "netexec"), ()),
    ],
)
def test_servers_announce_their_ports(argv: tuple[str, ...], ports: tuple[int, ...]) -> None:
    assert served_ports(argv) == ports
