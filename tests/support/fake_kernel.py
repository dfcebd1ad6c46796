"""nf_tables in memory, for tests without a kernel: runs what we send, refuses what the kernel would refuse.

    kernel = FakeKernel()
    kernel.run(text.replacement(table.whole()))     # as Nft.run
    kernel.apply(delta.changes)                     # as ElementWriter.apply
    assert kernel.elements["peers4"] == {("10.0.0.1",): 65793}

A transaction happens as a whole or not at all. Refused, with the kernel's errno: adding an element that is there
(EEXIST; by text only if it leads elsewhere), removing one that is not (ENOENT), sets and chains that are not there
(ENOENT), deleting a chain that is jumped to or a set that is looked up (EBUSY), jumping to a base chain (EOPNOTSUPP),
jumping in a circle or deeper than 16 (EMLINK), names and comments that are too long. It understands the one-line
commands of `isthmus.ruleset.text` and nothing more: anything else is an AssertionError. `broken` makes the next calls
fail. tests/kernel/test_fake_kernel.py holds it against the real one.
"""

import errno
import re
from collections.abc import Container, Iterator, Sequence

from isthmus.kernel.errors import KernelError, NftError, describe
from isthmus.model.service import Target
from isthmus.ruleset.sets import ElementChange, Field, Holds, Jump, Key, SetSpec, Value

MAX_NAME = 255
MAX_COMMENT = 128
MAX_DEPTH = 16

_COMMAND = re.compile(r"(add|delete|flush) (table|chain|set|map|rule|element) inet (\S+)(?: (\S+))?(?: (.*))?")
_JUMP = re.compile(r"\b(?:jump|goto) ([A-Za-z0-9_]+)")
_LOOKUP = re.compile(r"@([A-Za-z0-9_]+)")
_STRING = re.compile(r'"[^"]*"')
_FIELDS = {field.value: field for field in Field}
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132}


class FakeKernel:
    """One network namespace's `inet` table; both `Nft` and `ElementWriter` to the code under test."""

    def __init__(self, *, table: str = "isthmus") -> None:
        self.table = table
        self.exists = False
        self.sets: dict[str, SetSpec] = {}
        self.elements: dict[str, dict[Key, Value]] = {}
        self.chains: dict[str, list[str]] = {}
        self.hooks: dict[str, str] = {}
        self.scripts: list[str] = []
        self.applied: list[tuple[ElementChange, ...]] = []
        self.broken: list[KernelError] = []
        """Errors for the next calls, first one first; nothing happens in a call that raises one."""

    def close(self) -> None:
        """Is there for code that closes what it used."""

    def run(self, script: str) -> str:
        """Runs a script as one transaction. Raises NftError."""
        self._break()
        backup = self._save()
        for number, line in enumerate(script.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                self._command(line.strip())
            except _Refused as refused:
                self._restore(backup)
                message = f"nft: line {number}:1: {refused}: {line.strip()}"
                raise NftError(message, errno=refused.errno, line=number, column=1, source=line.strip()) from None
        try:
            self._validate()
        except _Refused as refused:
            self._restore(backup)
            raise NftError(f"nft: {refused}", errno=refused.errno) from None
        self.scripts.append(script)
        return ""

    def check(self, script: str) -> None:
        """Validates a script without keeping its effect. Raises NftError."""
        backup = self._save()
        try:
            self.run(script)
            self.scripts.pop()
        finally:
            self._restore(backup)

    def apply(self, changes: Sequence[ElementChange]) -> None:
        """Changes elements as one transaction. Raises KernelError."""
        self._break()
        backup = self._save()
        for change in changes:
            key: Key = ()
            verb = "remove from"
            try:
                for key in change.remove:
                    self._remove(change.spec.name, key)
                verb = "add to"
                for key, value in change.add:
                    self._add(change.spec, key, value, exclusive=True)
            except _Refused as refused:
                self._restore(backup)
                subject = f"inet {self.table} {change.spec.name} {{ {' . '.join(map(str, key))} }}"
                raise KernelError(f"{verb} {subject}: {refused}", errno=refused.errno, subject=subject) from None
        try:
            self._validate()
        except _Refused as refused:
            self._restore(backup)
            raise KernelError(str(refused), errno=refused.errno) from None
        self.applied.append(tuple(changes))

    def read(self, spec: SetSpec) -> dict[Key, Value]:
        """Returns the elements of a set. Raises KernelError."""
        if spec.name not in self.sets:
            raise KernelError(f"elements of inet {self.table} {spec.name}: ENOENT", errno=errno.ENOENT)
        return dict(self.elements[spec.name])

    # -- transactions ------------------------------------------------------------------------------------------

    def _break(self) -> None:
        if self.broken:
            raise self.broken.pop(0)

    def _save(self) -> "_State":
        elements = {name: dict(content) for name, content in self.elements.items()}
        chains = {name: list(rules) for name, rules in self.chains.items()}
        return self.exists, dict(self.sets), elements, chains, dict(self.hooks)

    def _restore(self, backup: "_State") -> None:
        self.exists, self.sets, self.elements, self.chains, self.hooks = backup

    # -- commands ----------------------------------------------------------------------------------------------

    def _command(self, line: str) -> None:
        match = _COMMAND.fullmatch(line)
        assert match, f"not a command the fake kernel knows: {line}"
        verb, kind, table, name, rest = match.groups(default="")
        if table != self.table:
            raise _Refused(errno.ENOENT)
        if (verb, kind) == ("add", "table"):
            self.exists = True
            return
        if not self.exists:
            raise _Refused(errno.ENOENT)
        if (verb, kind) == ("delete", "table"):
            self.exists = False
            self.sets, self.elements, self.chains, self.hooks = {}, {}, {}, {}
            return
        if len(name) > MAX_NAME:
            raise _Refused(errno.ENAMETOOLONG)
        for comment in re.findall(r'comment "([^"]*)"', rest):
            if len(comment) > MAX_COMMENT:
                raise _Refused(errno.EINVAL)
        self._dispatch(verb, kind, name, rest)

    def _dispatch(self, verb: str, kind: str, name: str, rest: str) -> None:
        match verb, kind:
            case "add", "set" | "map":
                self._declare(_parse_spec(name, rest))
            case "delete", "set" | "map":
                self._must_have(self.sets, name)
                if any(name in _lookups(rule) for rules in self.chains.values() for rule in rules):
                    raise _Refused(errno.EBUSY)
                del self.sets[name], self.elements[name]
            case "flush", "set" | "map":
                self._must_have(self.sets, name)
                self.elements[name] = {}
            case "add", "chain":
                self.chains.setdefault(name, [])
                hook = re.search(r"type (?:filter|nat) hook .*?;", rest)
                if hook:
                    self.hooks[name] = hook[0]
            case "delete", "chain":
                self._must_have(self.chains, name)
                others = [rule for chain, rules in self.chains.items() if chain != name for rule in rules]
                values = [value for content in self.elements.values() for value in content.values()]
                if any(name in _jumps(rule) for rule in others) or Jump(name) in values:
                    raise _Refused(errno.EBUSY)
                del self.chains[name]
                self.hooks.pop(name, None)
            case "flush", "chain":
                self._must_have(self.chains, name)
                self.chains[name] = []
            case "add", "rule":
                self._must_have(self.chains, name)
                self._references(rest)
                self.chains[name].append(rest)
            case "add" | "delete", "element":
                self._must_have(self.sets, name)
                for key, value in _parse_elements(self.sets[name], rest):
                    if verb == "add":
                        self._add(self.sets[name], key, value, exclusive=False)
                    else:
                        self._remove(name, key)
            case _:
                raise AssertionError(f"not a command the fake kernel knows: {verb} {kind}")

    def _declare(self, spec: SetSpec) -> None:
        if self.sets.setdefault(spec.name, spec) != spec:
            raise _Refused(errno.EEXIST)
        self.elements.setdefault(spec.name, {})

    @staticmethod
    def _must_have(where: Container[str], name: str) -> None:
        if name not in where:
            raise _Refused(errno.ENOENT)

    def _references(self, rule: str) -> None:
        for chain in _jumps(rule):
            self._target(chain)
        for name in _lookups(rule):
            self._must_have(self.sets, name)

    def _target(self, chain: str) -> None:
        if chain not in self.chains:
            raise _Refused(errno.ENOENT)
        if chain in self.hooks:
            raise _Refused(errno.EOPNOTSUPP)

    # -- elements ----------------------------------------------------------------------------------------------

    def _add(self, spec: SetSpec, key: Key, value: Value, *, exclusive: bool) -> None:
        if spec.name not in self.sets:
            raise _Refused(errno.ENOENT)
        if self.sets[spec.name] != spec or len(key) != len(spec.key):
            raise _Refused(errno.EINVAL)
        if isinstance(value, Jump) != (spec.holds is Holds.VERDICT) or (value is None) != (spec.holds is None):
            raise _Refused(errno.EINVAL)
        if isinstance(value, Jump):
            self._target(value.chain)
        content = self.elements[spec.name]
        if key in content and (exclusive or content[key] != value):
            raise _Refused(errno.EEXIST)
        content[key] = value

    def _remove(self, name: str, key: Key) -> None:
        if key not in self.elements.get(name, {}):
            raise _Refused(errno.ENOENT)
        del self.elements[name][key]

    # -- what the kernel looks at before it commits ------------------------------------------------------------

    def _validate(self) -> None:
        for base in self.hooks:
            self._descend(base, ())

    def _descend(self, chain: str, path: tuple[str, ...]) -> None:
        if chain in path or len(path) >= MAX_DEPTH:
            raise _Refused(errno.EMLINK, f"jumps go in a circle or too deep: {' > '.join((*path, chain))}")
        for rule in self.chains[chain]:
            for target in self._targets(rule):
                self._descend(target, (*path, chain))

    def _targets(self, rule: str) -> Iterator[str]:
        yield from _jumps(rule)
        if " vmap " in rule:
            for name in _lookups(rule):
                yield from {value.chain for value in self.elements[name].values() if isinstance(value, Jump)}


_State = tuple[bool, dict[str, SetSpec], dict[str, dict[Key, Value]], dict[str, list[str]], dict[str, str]]


class _Refused(Exception):
    def __init__(self, number: int, why: str = "") -> None:
        super().__init__(why or describe(number))
        self.errno = number


def _jumps(rule: str) -> list[str]:
    return _JUMP.findall(_STRING.sub("", rule))


def _lookups(rule: str) -> list[str]:
    return _LOOKUP.findall(_STRING.sub("", rule))


def _parse_spec(name: str, rest: str) -> SetSpec:
    match = re.fullmatch(r"\{ type ([^:;]+?)(?: : ([^;]+?))?;(?: size (\d+); flags dynamic,timeout;)? \}", rest)
    assert match, f"not a set the fake kernel knows: {rest}"
    key = tuple(_FIELDS[part] for part in match[1].split(" . "))
    return SetSpec(name, key, Holds(match[2]) if match[2] else None, int(match[3] or 0))


def _parse_elements(spec: SetSpec, rest: str) -> Iterator[tuple[Key, Value]]:
    assert rest.startswith("{ ") and rest.endswith(" }"), rest
    for item in rest[2:-2].split(", "):
        key, _, value = item.partition(" : ")
        fields = tuple(_parse_field(f, part) for f, part in zip(spec.key, key.split(" . "), strict=True))
        yield fields, _parse_value(spec, value)


def _parse_field(field: Field, text: str) -> str | int:
    match field:
        case Field.IPV4 | Field.IPV6:
            return text
        case Field.IDENTITY:
            return _parse_identity(text)
        case Field.PROTOCOL:
            return _PROTOCOLS[text] if text in _PROTOCOLS else int(text)
        case Field.PORT:
            return int(text)


def _parse_identity(text: str) -> int:
    if text == "none":
        return 0
    upper, _, lower = text.partition(":")
    return int(upper, 16) << 16 | int(lower, 16)


def _parse_value(spec: SetSpec, text: str) -> Value:
    if not text or spec.holds is None:
        return None
    if spec.holds is Holds.IDENTITY:
        return _parse_identity(text)
    if spec.holds is Holds.VERDICT:
        return Jump(text.removeprefix("jump "))
    address, _, port = text.partition(" . ")
    return Target(address, int(port))
