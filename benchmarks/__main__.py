"""`python -m benchmarks [--quick] [NAME …]`: runs benchmarks and prints their tables; no name means all.

A benchmark is a module here with `run(*, quick: bool) -> Iterator[Table]`; its line in `BENCHMARKS` is all it needs.
"""

import argparse
import importlib
import os
import platform
import subprocess
import sys

BENCHMARKS = {
    "enforcement": "in a lab: policy acknowledged -> enforced, pod -> known in the other cluster; memory",
    "agent": "the agent alone: a change told -> committed by the kernel; memory",
    "policy.compiling": "the compiler: a whole world, and one change of each kind; many policies on one pod",
    "policy.latency": "in a lab: a policy written -> enforced, live connections cut; a big cluster, idle and in churn",
    "policy.packets": "new connections and bulk by kind and number of the policies on a pod, and remote IPs",
    "dataplane": "TCP connections and bulk throughput of a policed pod against conntrack only",
    "services": "Services: a change of one backend, connections through a ClusterIP, a whole load",
    "merged": "global services: a change of one backend, of tiers and weights, connections",
    "failover": "in a lab: the last backend in use is gone -> the other cluster answers",
    "sharing": "Services of other clusters: a change of one backend from tracker to reader, a first synchronisation",
    "pods": "in a lab: a pod created -> Ready, one by one and a hundred at once; what pods cost",
    "apiserver": "the lab's API server: writes a second, watch fan-out, lists, memory",
    "elements": "set elements into the kernel: one change, first load, by netlink and by text",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to see that it works")
    parser.add_argument("--list", action="store_true", help="say what there is")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:16} {what}" for name, what in BENCHMARKS.items()))
        return 0
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    print(machine(), flush=True)
    for name in arguments.names or BENCHMARKS:
        for table in importlib.import_module(f"benchmarks.{name}").run(quick=arguments.quick):
            print(f"\n{table}", flush=True)
    return 0


def machine() -> str:
    """Returns one line on what the numbers were measured on."""
    nft = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=False).stdout.split()[1:2]
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPUs, Linux {platform.release().partition('-')[0]}, nft {' '.join(nft).lstrip('v')}, "
        f"Python {platform.python_version()}, load before the start {load:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
