"""`$(NAME)` in values, command and args (core/v1 EnvVar, Container).

A reference is replaced if NAME is known and stays as it is otherwise; `$$` is one dollar sign, so `$$(NAME)` is never
a reference. Rejected: Python's string.Template, whose syntax and errors are others.
"""

from collections.abc import Mapping, Sequence


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replaces references in `text`."""
    if "$" not in text:
        return text
    pieces: list[str] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0 and dollar + 1 < len(text):
        pieces.append(text[at:dollar])
        following = text[dollar + 1]
        end = text.find(")", dollar + 2) if following == "(" else -1
        if following == "$":
            pieces.append("$")
            at = dollar + 2
        elif end >= 0:
            pieces.append(values.get(text[dollar + 2 : end], text[dollar : end + 1]))
            at = end + 1
        elif following == "(":
            # No end: the opening is ordinary text.
            pieces.append("$(")
            at = dollar + 2
        else:
            pieces.append(f"${following}")
            at = dollar + 2
    return "".join([*pieces, text[at:]])


def expand_all(words: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Replaces references in each word."""
    return tuple(expand(word, values) for word in words)
