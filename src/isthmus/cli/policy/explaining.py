"""`isthmus policy explain`."""

import sys

import click

from isthmus.cli.policy import NO
from isthmus.cli.policy.sources import Sources, of_clusters, picture, scene_of, show


@click.command()
@click.option("--from", "source", required=True, metavar="END", help="Who opens the connection.")
@click.option("--to", "destination", required=True, metavar="END", help="Who is called.")
@click.option("--port", metavar="NUMBER[/PROTOCOL]", help="As 80, 80/TCP, 53/UDP or 5000/SCTP.")
@click.option(
    "--icmp",
    is_flag=False,
    flag_value="8",
    metavar="[TYPE]",
    help="ICMP instead of a port: an echo request (ping), or messages of a type (0-255).",
)
@click.option("-n", "--namespace", help="Namespace where none is written; that of the context by default.")
@of_clusters
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
def explain(
    *,
    source: str,
    destination: str,
    port: str | None,
    icmp: str | None,
    namespace: str | None,
    clusters: Sources,
    output: str,
) -> None:
    """Tell why a connection is allowed or denied, and what would allow it.

    Both halves are judged: egress by the policies of the source's cluster, ingress by those of the destination's. Exits
    with 2 if anything is denied.

    \b
    END is one of
      [CLUSTER:][NAMESPACE/]NAME         a pod, or the pods of a workload
      [CLUSTER:][NAMESPACE/]KIND/NAME    pod, deploy, sts, ds, job, svc
      [CLUSTER:][NAMESPACE/]KEY=VALUE    pods by labels
      [CLUSTER:]node/NAME                a node
      10.0.0.1, outside, www.example.com
      NAME.NAMESPACE.svc.clusterset.local

    \b
    Examples:
      isthmus policy explain --from koornacht:default/x-wing --to svc/rebel-base
      isthmus policy explain --from koornacht:x-wing --to tion:rebel-base --port 80
      isthmus policy explain --from outside --to tion:app=web --port 443 -o json
      isthmus policy explain --manifests clusters/ --from tion:x-wing --to 192.0.2.7 --icmp
    """
    wanted = read_port(port, icmp)
    found = picture(clusters)
    from isthmus.cli.policy import answering
    from isthmus.policy.explaining.answers import explain as judge
    from isthmus.policy.explaining.ends import TargetError
    from isthmus.policy.explaining.targets import parse, resolve

    scene = scene_of(found)
    space = namespace or found.namespace
    option = "--from"
    try:
        start = parse(source, namespace=space)
        sources, notes = resolve(scene, start, cluster=found.current, port=None)
        option = "--to"
        end = parse(destination, namespace=space)
        here = next((one.cluster for one in sources if one.cluster), "") or found.current
        destinations, more = resolve(scene, end, cluster=here, port=wanted)
        option = "--to" if wanted else "--port"
        answers = judge(scene, sources, destinations, wanted)
    except TargetError as error:
        raise click.ClickException(f"{option}: {error}") from None
    notes += more
    if output == "table":
        live = {c.name: c.origin.removeprefix("context ") for c in found.clusters} if not clusters.manifests else {}
        click.echo(answering.text(answers, notes, live), nl=False)
    else:
        show(answering.as_data(answers, notes), output)
    if not all(answer.allowed for answer in answers):
        sys.exit(NO)


def read_port(port: str | None, icmp: str | None) -> tuple[int, int] | None:
    """Returns (protocol, number or type), None if nothing was said."""
    from isthmus.model.flow import PORT_PROTOCOLS, Protocol

    if icmp is not None:
        if port is not None:
            raise click.UsageError("--port and --icmp exclude each other")
        if not (icmp.isascii() and icmp.isdecimal() and int(icmp) <= 255):
            raise click.BadParameter(f"{icmp!r} is no type of message, 0-255", param_hint="--icmp")
        return Protocol.ICMP, int(icmp)
    if port is None:
        return None
    number, slash, word = port.partition("/")
    if number.upper() in PORT_PROTOCOLS and word.isdecimal():
        number, word = word, number
    protocol = PORT_PROTOCOLS.get(word.upper() if slash else "TCP")
    if protocol is None or not (number.isascii() and number.isdecimal() and 0 < int(number) <= 65535):
        raise click.BadParameter(f"{port!r} is no port, as 80, 80/TCP or 53/UDP", param_hint="--port")
    return protocol, int(number)
