"""Policies from files and standard input."""

import sys
from pathlib import Path
from typing import Any

import click


def objects_of(names: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the API objects of files, of directories and of standard input (-), with where they come from."""
    from isthmus.mesh.picture.documents import DocumentError, read_place, read_stream

    found: list[tuple[str, dict[str, Any]]] = []
    try:
        for name in names:
            if name == "-":
                origin = "standard input"
                found += [(origin, obj) for obj in read_stream(sys.stdin.buffer, origin=origin)]
                continue
            found += [(str(file), obj) for file, obj in read_place(Path(name))]
    except DocumentError as error:
        raise click.ClickException(str(error)) from None
    return found


def policies_of(names: tuple[str, ...], *, namespace: str) -> list[dict[str, Any]]:
    """Returns the policies (and CIDR groups) among them, with a namespace where their kind has one."""
    from isthmus.policy.explaining.facts import GROUP
    from isthmus.policy.parsing import KINDS

    found = [placed(obj, namespace) for _, obj in objects_of(names) if obj["kind"] in (*KINDS, GROUP)]
    if not found:
        raise click.ClickException(f"{', '.join(names)}: no policy in it (known kinds: {', '.join(KINDS)})")
    return found


def placed(obj: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Returns a policy with a namespace, if its kind has one and it names none."""
    from isthmus.policy.parsing import KINDS

    meta, kind = obj.get("metadata"), KINDS.get(obj["kind"])
    if kind is None or not kind.namespaced or not isinstance(meta, dict) or meta.get("namespace"):
        return obj
    return {**obj, "metadata": {**meta, "namespace": namespace}}
