"""Kubeconfigs for people: of the whole lab, and merged into their own."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from isthmus.lab import kubeconfig
from isthmus.lab.life.notes import Note, read_note, write_note
from isthmus.lab.plan import ClusterPlan
from isthmus.lab.statedir import StateDir


def user_config(state: StateDir, plans: Iterable[ClusterPlan]) -> kubeconfig.Config:
    """Returns one kubeconfig with the contexts of these clusters; raises KubeconfigError."""
    config = kubeconfig.empty()
    for plan in plans:
        config = kubeconfig.merge(config, kubeconfig.load(state.cluster(plan.name).kubeconfig("admin")))
    return config


def write_lab_config(state: StateDir, plans: Iterable[ClusterPlan]) -> None:
    """Writes the kubeconfig of the whole lab beside its state; raises KubeconfigError."""
    kubeconfig.write(state.kubeconfig, user_config(state, plans))


def merge_user_config(state: StateDir, name: str, path: Path) -> None:
    """Puts a cluster's context into somebody's kubeconfig and makes it the current one; raises KubeconfigError."""
    ours = kubeconfig.load(state.cluster(name).kubeconfig("admin"))
    kubeconfig.write(path, kubeconfig.merge(kubeconfig.load(path), ours, switch=True))
    note = read_note(state, name)
    if note is not None and note.merged_into != str(path):
        write_note(state, msgspec.structs.replace(note, merged_into=str(path)))


def forget_merged(notes: Iterable[Note]) -> None:
    """Takes contexts out of the kubeconfigs into which they were merged."""
    for note in notes:
        path = Path(note.merged_into)
        if note.merged_into and path.exists():
            try:
                kubeconfig.write(path, kubeconfig.without(kubeconfig.load(path), [note.plan.context]))
            except kubeconfig.KubeconfigError:
                continue  # somebody else's file, changed beyond our understanding: leave it
