"""Domain names as policies write them: what a name or a pattern means, and which addresses follow from it.

Two grammars, both parsed into NamePattern: Cilium's matchName and matchPattern (reference: cilium-policy §4.1), and the
domainNames of ClusterNetworkPolicy (NPEP-133). Names are compared in lower case with the final dot. The pattern is
turned into a regular expression of fixed shape without nesting, so hostile input cannot make matching slow.
"""

import re
from functools import lru_cache

import msgspec

MAX_NAME = 255  # RFC 1035 2.3.4
_LABEL_CHARS = "[-a-zA-Z0-9_]"
_ANY_NAME = re.compile(r"\*+\.?")


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
        return _compiled(self).fullmatch(absolute(name)) is not None

    def __str__(self) -> str:
        return self.text


def absolute(name: str) -> str:
    """Returns `name` in lower case with the final dot."""
    name = name.lower()
    return name if name.endswith(".") else name + "."


@lru_cache(maxsize=4096)
def _compiled(pattern: NamePattern) -> re.Pattern[str]:
    if pattern.everything:
        return re.compile(rf"({_LABEL_CHARS}+\.)*\.?")
    text = absolute(pattern.text)
    head = ""
    if pattern.whole_labels and text.startswith("*."):
        head, text = rf"({_LABEL_CHARS}+\.)+", text[2:]
    elif text.startswith("**."):
        head, text = rf"({_LABEL_CHARS}+\.)+", text[3:]
    parts = [re.escape(part) for part in re.split(r"\*+", text)]
    return re.compile(head + f"{_LABEL_CHARS}*".join(parts))
