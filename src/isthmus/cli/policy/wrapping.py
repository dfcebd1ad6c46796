"""Paragraphs in 100 columns. Pure."""

import textwrap

WIDTH = 100


def wrapped(text: str, head: str = "", *, hanging: int = 0) -> list[str]:
    """Returns `head` and the text in lines; those after the first are indented as deep as the head, and `hanging`."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * (len(head) + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
