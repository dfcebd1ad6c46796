"""What the agent may be asked for, and which flag is named when it cannot be."""

import pytest
from click.testing import CliRunner

from isthmus.agent.options import GlobalServices, Options, OptionsError
from isthmus.agent.services.serving import ServiceSettings
from isthmus.cli.agent import command

BASE = {"node_name": "n1", "cluster_name": "east", "etcd_endpoints": ("https://127.0.0.1:2379",)}


def test_by_default_only_global_services_are_served_and_nodes_are_probed():
    options = Options.check({**BASE, "remote_health": "on", "remote_staleness": "10m"})
    assert options.services == ServiceSettings(everything=False, across=True, probe_port=10250, staleness=600.0)


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ({"kube_proxy_replacement": True, "global_services": "off"}, ServiceSettings(True, False, 10250, 600.0)),
        ({"kube_proxy_replacement": True}, ServiceSettings(True, True, 10250, 600.0)),
        (
            {"kube_proxy_replacement": True, "global_services": "endpointslices"},
            ServiceSettings(True, False, 10250, 600),
        ),
        ({"global_services": "endpointslices"}, None),
        ({"global_services": "off"}, None),
        ({"remote_health": "off", "remote_staleness": "0"}, ServiceSettings(False, True, None, 0.0)),
        ({"remote_health_port": 22, "remote_staleness": "1m30s"}, ServiceSettings(False, True, 22, 90.0)),
    ],
)
def test_what_is_served_follows_from_the_flags(given, served):
    assert Options.check({**BASE, **given}).services == served


@pytest.mark.parametrize("text", ["", "ten", "10", "-5m", "10000h", "1d"])
def test_a_staleness_that_is_no_duration_is_refused_by_its_flag(text):
    with pytest.raises(OptionsError, match=r"^--remote-staleness: "):
        Options.check({**BASE, "remote_staleness": text})


def test_modes_are_those_of_the_tracker():
    assert {mode.value for mode in GlobalServices} == {"nftables", "endpointslices", "off"}


@pytest.mark.parametrize(("given", "mode"), [({}, "cut"), ({"live_connections": "keep"}, "keep")])
def test_live_connections_are_cut_unless_they_are_to_be_kept(given, mode):
    assert Options.check({**BASE, **given}).live_connections.value == mode


@pytest.mark.parametrize(
    ("arguments", "variable", "code", "shown"),
    [
        ([], "keep", 1, "Error: --cluster-name"),  # the value is good
        ([], "sometimes", 2, "Invalid value for '--live-connections'"),
        (["--live-connections", "never"], "", 2, "Invalid value for '--live-connections'"),
    ],
)
def test_live_connections_can_be_said_by_flag_and_by_environment(arguments, variable, code, shown):
    environment = {"ISTHMUS_LIVE_CONNECTIONS": variable} if variable else {}
    result = CliRunner().invoke(command, arguments, env=environment)

    assert result.exit_code == code
    assert shown in result.output
