"""From the bytes of a request to a value, however hostile they are.

JSON is tried first: clients that say YAML mostly send JSON. YAML is composed into a graph, in which an alias is a
shared node; size and depth of what it stands for are counted on the graph before anything is built, so an alias bomb
costs no more than its own bytes. A parser of our own that counts while it reads was rejected: libyaml is faster.
"""

import functools
from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import Json

MAX_YAML = 1024 * 1024  # bytes
MAX_VALUES = 100_000  # keys and items of a YAML body, aliases written out
MAX_NESTING = 256  # objects and lists within each other


def parse(body: bytes, *, yaml: bool = False) -> Any:
    """Returns the value that JSON (or YAML) `body` holds; raises ApiError (400 or 413)."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as failure:
        if not yaml:
            raise errors.bad_request(f"error decoding request body: {failure}") from failure
        return _parse_yaml(body)
    if body.count(b"{") + body.count(b"[") > MAX_NESTING and _deeper(value):
        raise errors.bad_request(f"error decoding request body: more than {MAX_NESTING} levels of nesting")
    return value


def parse_object(body: bytes, *, yaml: bool = False) -> Json:
    """Returns the object that `body` holds; raises ApiError (400 or 413)."""
    value = parse(body, yaml=yaml)
    if not isinstance(value, dict):
        raise errors.bad_request("the request body is not an object")
    return value


def _deeper(value: Any) -> bool:
    """Tells whether a value is nested too deep; no recursion, for it may be."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return False
        level = below
    return True


def _parse_yaml(body: bytes) -> Any:
    import yaml  # late: only hand-made requests are not JSON

    if len(body) > MAX_YAML:
        text = f"Request entity too large: limit of a YAML body is {MAX_YAML}"
        raise errors.ApiError(413, "RequestEntityTooLarge", text)
    try:
        text = body.decode()
        depth = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):  # composing recurses in C and would end the process
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_NESTING:
                raise ValueError(f"more than {MAX_NESTING} levels of nesting")
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        if node is None:
            return None
        _measure(node)
        loader = yaml.CSafeLoader("")
        try:
            return msgspec.to_builtins(loader.construct_document(node))
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as failure:
        raise errors.bad_request(f"error parsing YAML: {failure}") from failure


def _measure(root: Any) -> None:
    """Raises ValueError for a graph that is too big or too deep when written out, is a circle, or repeats a key."""
    sizes: dict[int, tuple[int, int]] = {}

    def measure(node: Any, path: tuple[int, ...]) -> tuple[int, int]:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in path:
            raise ValueError("anchor contains itself")
        if len(path) > MAX_NESTING:
            raise ValueError(f"more than {MAX_NESTING} levels of nesting")
        size, depth = 1, 0
        if isinstance(node.value, list):
            seen: set[str] = set()
            for item in node.value:
                for part in item if isinstance(item, tuple) else (item,):
                    inner = measure(part, (*path, id(node)))
                    size, depth = size + inner[0], max(depth, inner[1] + 1)
                if isinstance(item, tuple) and isinstance(item[0].value, str) and item[0].value != "<<":
                    if item[0].value in seen:
                        raise ValueError(f'key "{item[0].value}" already set in map')
                    seen.add(item[0].value)
        if size > MAX_VALUES:
            raise ValueError("document contains excessive aliasing")
        if depth > MAX_NESTING:  # aliases of aliases
            raise ValueError(f"more than {MAX_NESTING} levels of nesting")
        sizes[id(node)] = (size, depth)
        return size, depth

    measure(root, ())


class _Repeated(dict[str, Any]):
    """An object that had some keys more than once."""

    keys_again: tuple[str, ...] = ()


def repeated(body: bytes) -> list[str]:
    """Returns the paths of the keys that a JSON body has more than once in the same object; none if it is no JSON."""
    import json  # msgspec keeps the last of equal keys and tells nobody

    found: list[str] = []

    def gather(marks: list[_Repeated], pairs: list[tuple[str, Any]]) -> Json:
        value = dict(pairs)
        if len(value) == len(pairs):
            return value
        marked = _Repeated(value)
        names = [name for name, _ in pairs]
        marked.keys_again = tuple(name for name in value if names.count(name) > 1)
        marks.append(marked)
        return marked

    def walk(value: Any, path: str) -> None:
        if isinstance(value, _Repeated):
            found.extend(f"{path}.{name}" if path else name for name in value.keys_again)
        if isinstance(value, dict):
            for name, item in value.items():
                walk(item, f"{path}.{name}" if path else name)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, f"{path}[{index}]")

    marks: list[_Repeated] = []
    try:
        value = json.loads(body, object_pairs_hook=functools.partial(gather, marks))
    except (ValueError, RecursionError):
        return []
    if marks:
        walk(value, "")
    return found
