"""Tables to measure with: compiled from made-up policies, identities and addresses by the compiler the agent uses."""

from ipaddress import ip_network

import msgspec

from isthmus.kernel.elements import ElementWriter, in_transactions
from isthmus.kernel.nftables import Nft
from isthmus.model.endpoint import Endpoint
from isthmus.model.identity import Identity
from isthmus.model.selector import Selector
from isthmus.policy.rules import Direction, ObjectRef, PodPeer, Policy, PortRange, Rule
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.table import Delta
from isthmus.ruleset.text import replacement

FIRST_PORT = 8000
PORTS = 8  # the policed pod listens on so many, all allowed
ON_THE_POD = 10  # policies that select the pod under load; the others have pods of their own
PODS_OF_THE_NODE = 100
IDENTITIES = 1000
REMOTE_CLUSTER = 2


def mesh(*, server: str, client: str, policies: int, addresses: int) -> World:
    """Returns a world in which `server` is isolated by up to ten of `policies` policies and allows `client`.

    The remaining policies isolate the node's other pods, a different one each as far as pods go. `addresses` remote pod
    IPs share a thousand identities.
    """
    world = World("local", pod_cidrs=(ip_network("10.244.0.0/24"),))
    world.pods["demo/server"] = LocalPod("demo", "server", "1", {"app": "server"}, (server,))
    for number in range(PODS_OF_THE_NODE):
        name = f"other-{number}"
        world.pods[f"demo/{name}"] = LocalPod("demo", name, name, {"app": name}, (f"10.244.1.{number}",))
    base = REMOTE_CLUSTER << 16
    for number in range(base + 256, base + 256 + IDENTITIES):
        labels = {"app": f"app-{number % 50}", "tier": f"tier-{number % 7}"}
        namespace = f"ns-{number % 20}"
        world.identities[number] = Identity(number, "remote", namespace, labels, {"team": f"team-{number % 20 % 5}"})
    allowed = Identity(base + 256 + IDENTITIES, "remote", "clients", {"app": "client"}, {"team": "clients"})
    world.identities[allowed.number] = allowed
    world.endpoints[client] = Endpoint("remote", client, allowed.number, "clients", "client")
    for number in range(addresses - 1):
        ip = f"10.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        world.endpoints[ip] = Endpoint("remote", ip, base + 256 + number % IDENTITIES, "", f"pod-{number}")
    for number in range(policies):
        policy = _policy(number)
        world.policies[policy.ref] = policy
    return world


def _policy(number: int) -> Policy:
    on_the_pod = number < ON_THE_POD
    subject = {"app": "server"} if on_the_pod else {"app": f"other-{number % PODS_OF_THE_NODE}"}
    rules = [
        Rule(
            Direction.INGRESS,
            0,
            (
                PodPeer(
                    Selector.equals({"app": f"app-{number % 50}"}), Selector.equals({"team": f"team-{number % 5}"})
                ),
                PodPeer(Selector.equals({"tier": f"tier-{number % 7}"}), namespace=f"ns-{number % 20}"),
            ),
            (PortRange(6, 80 + number, 80 + number), PortRange(17, 53, 53)),
        )
    ]
    if number == 0:
        clients = PodPeer(Selector.equals({"app": "client"}))
        rules.append(Rule(Direction.INGRESS, 1, (clients,), (PortRange(6, FIRST_PORT, FIRST_PORT + PORTS - 1),)))
    ref = ObjectRef("NetworkPolicy", "demo", f"policy-{number:04}")
    return Policy(ref, "demo", PodPeer(Selector.equals(subject)), frozenset({Direction.INGRESS}), tuple(rules))


def load(whole: Delta, *, nft: Nft, elements: ElementWriter) -> None:
    """Puts a whole table into the kernel: structure as text, elements by netlink, verdict maps last."""
    nft.run(replacement(msgspec.structs.replace(whole, changes=())))
    for group in in_transactions(sorted(whole.changes, key=lambda change: change.spec.holds is not None)):
        elements.apply(group)


def compiled(world: World) -> Delta:
    """Returns everything the compiler makes of `world`."""
    return Compiler(world).table.whole()
