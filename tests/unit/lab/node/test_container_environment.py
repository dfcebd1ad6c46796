"""Variables and expanded command lines of containers."""

import pytest

from isthmus.lab.images.catalog import find_image
from isthmus.lab.node.environment import UnsupportedError, environment, expand
from isthmus.lab.node.pod import Container, EnvSource, EnvVar, FieldRef, Meta, Pod, PodSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $(", "$A ${A} $("),
        ("$", "$"),
    ],
)
def test_references_are_replaced_as_the_api_says(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


def variables(*given: EnvVar) -> dict[str, str]:
    meta = Meta(name="p", namespace="n", uid="u", labels={"app.kubernetes.io/name": "x"})
    pod = Pod(metadata=meta, spec=PodSpec(nodeName="node", serviceAccountName="default"))
    container = Container(name="c", env=given)
    return environment(
        pod, container, image=find_image("busybox"), host_ip="172.30.1.1", pod_ip="10.1.0.2", services={}
    )


def test_a_variable_may_use_those_before_it() -> None:
    found = variables(EnvVar("A", "1"), EnvVar("B", "$(A)$(C)"), EnvVar("C", "3"))
    assert found["B"] == "1$(C)"
    assert found["HOSTNAME"] == "p"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status.podIP", "10.1.0.2"),
        ("spec.nodeName", "node"),
        ("metadata.labels['app.kubernetes.io/name']", "x"),
        ("metadata.annotations['none']", ""),
    ],
)
def test_fields_of_the_pod(path: str, value: str) -> None:
    assert variables(EnvVar("X", valueFrom=EnvSource(FieldRef(path))))["X"] == value


def test_what_the_lab_does_not_have_is_named() -> None:
    with pytest.raises(UnsupportedError, match="env X"):
        variables(EnvVar("X", valueFrom=EnvSource()))
    with pytest.raises(UnsupportedError, match=r"status\.nonsense"):
        variables(EnvVar("X", valueFrom=EnvSource(FieldRef("status.nonsense"))))
