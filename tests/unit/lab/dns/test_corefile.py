"""CoreDNS's configuration file."""

import pytest

from isthmus.lab.addons.manifests import dns
from isthmus.lab.dns.corefile import DEFAULT, CorefileError, parse

STOCK = """.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
"""


def test_the_stock_file_is_understood() -> None:
    settings = parse(STOCK)
    assert settings.origins == ((b"cluster", b"local"), (b"in-addr", b"arpa"), (b"ip6", b"arpa"))
    assert (settings.port, settings.ttl, settings.pods, settings.lameduck) == (53, 30, True, 5.0)
    assert (settings.health, settings.ready, settings.metrics) == (8080, 8181, 9153)
    assert len(settings.warnings) == 1 and "no upstream" in settings.warnings[0]


def test_the_file_of_the_addon_is_understood_without_a_warning() -> None:
    objects = dns({"cluster_name": "x", "cluster_domain": "example.org", "dns_ip": "10.96.0.10"})
    text = next(found["data"]["Corefile"] for found in objects if found["kind"] == "ConfigMap")
    settings = parse(text)
    assert settings.origins[:2] == ((b"example", b"org"), (b"clusterset", b"local"))
    assert settings.multicluster == ((b"clusterset", b"local"),)
    assert (settings.ttl, settings.pods, settings.warnings) == (5, True, ())
    assert parse(DEFAULT).origins[0] == (b"cluster", b"local")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Corefile:1: expected one server block"),
        ("hello", "Corefile:1: expected one server block"),
        (".:53 {\n", "closed by a `}`"),
        (".:53 {\n}\n", "the plugin `kubernetes` is missing"),
        (".:53 {\n kubernetes cluster.local\n}\n.:54 {\n}\n", "Corefile:4: expected one server block"),
        (".:99999 {\n}\n", "`99999` is not a port"),
        (".:53 {\n rewrite name a b\n}\n", "Corefile:2: `rewrite name a b` is not supported"),
        (
            ".:53 {\n kubernetes cluster.local {\n  multicluster clusterset.local\n }\n}\n",
            "Corefile:3: `clusterset.local` is not a zone of this `kubernetes`",
        ),
        (
            ".:53 {\n kubernetes clusterset.local {\n  multicluster clusterset.local\n }\n}\n",
            "Corefile:3: `kubernetes` needs the cluster's own zone too",
        ),
        (
            ".:53 {\n kubernetes cluster.local {\n  multicluster\n }\n}\n",
            "Corefile:3: `multicluster` is not supported",
        ),
        (
            ".:53 {\n kubernetes cluster.local {\n  pods verified\n }\n}\n",
            "Corefile:3: `pods verified` is not supported",
        ),
        (".:53 {\n kubernetes cluster.local {\n  ttl 99999\n }\n}\n", "Corefile:3: `ttl 99999` is not supported"),
        (".:53 {\n kubernetes a..b\n}\n", "Corefile:2: a label must have 1 to 63 bytes"),
        (".:53 {\n health {\n  lameduck soon\n }\n}\n", "Corefile:3: `soon` is not a duration"),
        (".:53 {\n a {\n  b {\n }\n}\n", "Corefile:3: unexpected block"),
    ],
)
def test_what_is_not_understood_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(CorefileError) as caught:
        parse(text)
    assert message in str(caught.value)
