"""Domain names as policies write them: what a name or a pattern means, and which addresses follow from it.

Two grammars, both parsed into NamePattern: Cilium's matchName and matchPattern (reference: cilium-policy §4.1), and the
domainNames of ClusterNetworkPolicy (NPEP-133). Names are compared in lower case with the final dot. A pattern is
matched label by label, since no `*` reaches over a dot, and within a label from left to right without going back: the
work is linear in the name, whatever the pattern. A regular expression was rejected: with many stars it is anything but
linear, and both the pattern and the name come from outside.
"""

import re
from functools import lru_cache

import msgspec

MAX_NAME = 255  # RFC 1035 2.3.4
_NAME = re.compile(r"[-a-z0-9_.]*")
_ANY_NAME = re.compile(r"\*+\.?")
_STARS = re.compile(r"\*+")

Label = tuple[str, ...]
"""One label of a pattern, split at its stars: a literal one is its own only part."""


class NamePattern(msgspec.Struct, frozen=True, order=True):
    """A set of names. `text` is as the user wrote it; `whole_labels` is true for the wildcard of NPEP-133.

    Then a leading `*.` stands for one label or more; otherwise `*` stands for characters of one label, `**.` at the
    start for one label or more, and a lone `*` for every name.
    """

    text: str
    whole_labels: bool = False

    @property
    def everything(self) -> bool:
        """Tells whether every name is meant."""
        return not self.whole_labels and _ANY_NAME.fullmatch(self.text) is not None

    def matches(self, name: str) -> bool:
        """Tells whether `name` (any case, with or without the final dot) is meant."""
        return self.covers(absolute(name))

    def covers(self, name: str) -> bool:
        """Tells whether `name`, in lower case and with its final dot, is meant; nothing else is a name."""
        if len(name) > MAX_NAME or not name.endswith(".") or _NAME.fullmatch(name) is None:
            return False
        labels = name[:-1].split(".")
        if self.everything:
            return name == "." or all(labels)
        deep, wanted = _parsed(self)
        more = len(labels) - len(wanted)
        if more < 1 if deep else more:
            return False
        return all(labels[:more]) and all(map(_fits, wanted, labels[more:]))

    def __str__(self) -> str:
        return self.text


def absolute(name: str) -> str:
    """Returns `name` in lower case with the final dot."""
    name = name.lower()
    return name if name.endswith(".") else name + "."


def _fits(label: Label, text: str) -> bool:
    """Tells whether `text` is the parts of `label` in order, with anything between them."""
    if len(label) == 1:
        return text == label[0]
    head, *middle, tail = label
    if len(text) < len(head) + len(tail) or not text.startswith(head) or not text.endswith(tail):
        return False
    at, end = len(head), len(text) - len(tail)
    for part in middle:  # the first place is as good as any later one
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@lru_cache(maxsize=4096)
def _parsed(pattern: NamePattern) -> tuple[bool, tuple[Label, ...]]:
    """Returns whether one label or more may stand before the rest, and the labels of the rest."""
    text = absolute(pattern.text)[:-1]
    prefix = "*." if pattern.whole_labels else "**."
    deep = text.startswith(prefix)
    labels = text.removeprefix(prefix) if deep else text
    return deep, tuple(tuple(_STARS.split(label)) for label in labels.split("."))
