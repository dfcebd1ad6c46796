"""Paragraphs for people, as wide as the terminal that they look at.

Where standard output is none, a paragraph is one line, as kubectl's are: who pipes into grep looks for words that stand
together, and gets what belongs to them with the line. Rejected: a fixed width for pipes, at which a break
splits what belongs together. Control characters, as a rule of a ClusterNetworkPolicy may have them in its name, are
written out: an object does not speak to the terminal.
"""

import os
import sys
import textwrap

USUAL = 100
"""Columns of a terminal that does not say how wide it is."""

LEAST = 60
"""Columns below which a terminal breaks the lines by itself: what is indented would be a word a line."""

_WRITTEN_OUT = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\v\f\r"}


def columns() -> int:
    """Returns how long lines may be; sys.maxsize where nobody looks at them."""
    if sys.stdout is None or not sys.stdout.isatty():
        return sys.maxsize
    try:
        found = os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        found = 0
    # The signs that answers begin with are two columns wide, and one character long.
    return max(found - 1, LEAST) if found else USUAL


def wrapped(text: str, head: str = "", *, hanging: int = 0) -> list[str]:
    """Returns `head` and the text in lines; those after the first are indented as deep as the head, and `hanging`."""
    return textwrap.wrap(
        text.translate(_WRITTEN_OUT),
        columns(),
        initial_indent=head,
        subsequent_indent=" " * (len(head) + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
