"""Variables and expanded command lines of containers."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.images.builtin import CATALOG
from isthmus.lab.node.environment.expansion import expand
from isthmus.lab.node.environment.fields import Facts
from isthmus.lab.node.environment.variables import ConfigError, Environment, environment, references
from isthmus.lab.node.pods.container import (
    Container,
    EnvFrom,
    EnvSource,
    EnvVar,
    FieldRef,
    ResourceRef,
    Resources,
    Selector,
)
from isthmus.lab.node.pods.spec import Meta, Pod, PodSpec

OBJECTS = {
    ("ConfigMap", "config"): {"COLOR": b"blue", "SIZE": b"9"},
    ("Secret", "password"): {"WORD": b"sesame"},
}
FACTS = Facts(pod_ips=("10.1.0.2", "fd00::2"), host_ips=("172.30.1.1",), allocatable={"memory": "8Gi", "cpu": "2"})


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
        ("$($(A))", "$($(A))"),
    ],
)
def test_references_are_replaced_as_the_api_says(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


@given(st.lists(st.sampled_from(["$", "$$", "(", ")", "A", "B", "$(A)", "$(B)", "$(C)", "x", " "])).map("".join))
def test_expansion_agrees_with_one_regular_expression(text: str) -> None:
    values = {"A": "1", "B": "$(A)", "": "empty"}

    def replaced(match: re.Match[str]) -> str:
        whole, name = match.group(0), match.group(1)
        if whole == "$$":
            return "$"
        return values.get(name, whole) if name is not None else whole

    assert expand(text, values) == re.sub(r"\$\$|\$\(([^)]*)\)|\$\(|\$.", replaced, text, flags=re.DOTALL)


def made(*given: EnvVar, sources: tuple[EnvFrom, ...] = (), services: dict[str, str] | None = None, **more: Any):
    meta = Meta(name="p", namespace="n", uid="u", labels={"app.kubernetes.io/name": "x"})
    pod = Pod(metadata=meta, spec=PodSpec(nodeName="node", serviceAccountName="default"))
    container = Container(name="c", env=given, envFrom=sources, **more)
    return environment(
        pod,
        container,
        image=CATALOG.find("busybox"),
        facts=FACTS,
        services=services or {},
        find=lambda kind, name: OBJECTS.get((kind, name)),
    )


def variables(*given: EnvVar, **more: Any) -> dict[str, str]:
    found: Environment = made(*given, **more)
    return found.variables


def test_a_variable_may_use_those_before_it() -> None:
    found = variables(EnvVar("A", "1"), EnvVar("B", "$(A)$(C)"), EnvVar("C", "3"))
    assert found["B"] == "1$(C)"
    assert found["HOSTNAME"] == "p"


def test_what_a_pod_declares_wins_over_whole_objects_and_these_over_services() -> None:
    found = variables(
        EnvVar("COLOR", "red"),
        sources=(EnvFrom(configMapRef=Selector("config")),),
        services={"SIZE": "service", "WEB_PORT": "tcp"},
    )
    assert (found["COLOR"], found["SIZE"], found["WEB_PORT"]) == ("red", "9", "tcp")


def test_whole_objects_take_a_prefix_and_can_be_referred_to() -> None:
    source = EnvFrom(prefix="P_", configMapRef=Selector("config"))
    found = variables(EnvVar("X", "$(P_COLOR)"), sources=(source,))
    assert (found["P_SIZE"], found["X"]) == ("9", "blue")


def test_only_what_the_pod_declares_can_be_referred_to_in_its_command() -> None:
    assert set(made(EnvVar("A", "1")).declared) == {"A"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status.podIP", "10.1.0.2"),
        ("status.podIPs", "10.1.0.2,fd00::2"),
        ("spec.nodeName", "node"),
        ("metadata.labels['app.kubernetes.io/name']", "x"),
        ("metadata.annotations['none']", ""),
    ],
)
def test_fields_of_the_pod(path: str, value: str) -> None:
    assert variables(EnvVar("X", valueFrom=EnvSource(FieldRef(path))))["X"] == value


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.memory", "1Mi", "64"),
        ("requests.cpu", "1m", "250"),
        ("requests.cpu", "0", "1"),
        ("limits.cpu", "1", "2"),
        ("requests.memory", "1", "0"),
    ],
)
def test_resources_count_in_units_of_the_divisor_rounded_up(resource: str, divisor: str, value: str) -> None:
    source = EnvSource(resourceFieldRef=ResourceRef(resource=resource, divisor=divisor))
    resources = Resources(limits={"memory": "64Mi"}, requests={"cpu": "250m"})
    assert variables(EnvVar("X", valueFrom=source), resources=resources)["X"] == value


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (EnvSource(configMapKeyRef=Selector("none", "k")), 'configmap "none" not found'),
        (EnvSource(configMapKeyRef=Selector("config", "k")), "couldn't find key k in ConfigMap n/config"),
        (EnvSource(secretKeyRef=Selector("none", "k")), 'secret "none" not found'),
        (EnvSource(secretKeyRef=Selector("password", "k")), "couldn't find key k in Secret n/password"),
        (EnvSource(), "env X: this kind of valueFrom"),
        (EnvSource(FieldRef("status.nonsense")), r"status\.nonsense"),
    ],
)
def test_what_is_missing_is_named_in_the_words_of_kubelets(source: EnvSource, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variables(EnvVar("X", valueFrom=source))


def test_what_is_optional_may_be_missing() -> None:
    found = variables(
        EnvVar("X", valueFrom=EnvSource(configMapKeyRef=Selector("none", "k", optional=True))),
        EnvVar("Y", valueFrom=EnvSource(secretKeyRef=Selector("password", "WORD"))),
        sources=(EnvFrom(secretRef=Selector("none", optional=True)),),
    )
    assert "X" not in found
    assert found["Y"] == "sesame"
    with pytest.raises(ConfigError, match='secret "none" not found'):
        variables(sources=(EnvFrom(secretRef=Selector("none")),))


def test_a_container_says_which_objects_it_needs() -> None:
    container = Container(
        name="c",
        envFrom=(EnvFrom(configMapRef=Selector("config")),),
        env=(EnvVar("X", valueFrom=EnvSource(secretKeyRef=Selector("password", "WORD"))),),
    )
    assert references(container) == {("ConfigMap", "config"), ("Secret", "password")}
