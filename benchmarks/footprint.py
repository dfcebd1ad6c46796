"""What a lab holds of its machine: counted from outside, through /proc."""

import os
from pathlib import Path

import msgspec


class Footprint(msgspec.Struct, frozen=True):
    """Counts over all processes of a lab; `pss` in MiB, without pages of files, which others than the lab share too."""

    processes: int
    network_namespaces: int
    mounts: int
    descriptors: int
    pss: float
    files: int
    """Files and directories below the lab's state directory."""


def measure(state: str) -> Footprint:
    """Returns the footprint of the lab whose state directory is `state`."""
    supervisor = _supervisor(state)
    family = _family(supervisor)
    namespaces = set()
    descriptors, pss = 0, 0
    for pid in family:
        try:
            namespaces.add(os.stat(f"/proc/{pid}/ns/net").st_ino)
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            pss += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss_Anon:"))
        except OSError:
            continue  # it ended meanwhile
    mounts = Path(f"/proc/{supervisor}/mountinfo").read_text().count("\n")
    files = sum(len(found) + len(names) for _base, found, names in os.walk(state))
    return Footprint(
        processes=len(family),
        network_namespaces=len(namespaces),
        mounts=mounts,
        descriptors=descriptors,
        pss=pss / 1024,
        files=files,
    )


def _supervisor(state: str) -> int:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"isthmus.lab.supervisor" in words and state.encode() in words and words[0].endswith(b"python"):
                return int(entry)
    raise LookupError(f"no lab runs in {state}")


def _family(root: int) -> set[int]:
    """Returns a process and all of its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found, left = {root}, [root]
    while left:
        for child in children.get(left.pop(), ()):
            found.add(child)
            left.append(child)
    return found
