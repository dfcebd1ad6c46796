"""Logging for every command: one line per event on standard error, as text for people or JSON for machines.

Invariants: structlog and the standard library's loggers (aiohttp, grpc, asyncio) end in the same place and form; a
value under a key that names a secret is masked whatever it is; a line is one line, because control characters are
escaped, so a hostile object name cannot forge one. Rejected: `structlog.dev.ConsoleRenderer`, which imports rich and
costs every command a quarter of a second.
"""

import datetime
import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")

_SECRET_WORDS = ("token", "password", "secret", "authorization", "private_key", "client_key")
_MASK = "<masked>"
_LEVEL_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_RESET = "\x1b[0m"


def configure(*, log_format: LogFormat | None = None, level: str = "info", stream: TextIO | None = None) -> None:
    """Sets up logging for the process; calling it again replaces the set-up.

    `log_format` None means text on a terminal and text elsewhere too: JSON is asked for, never guessed. `level` is
    one of LEVELS, and ValueError otherwise. `stream` is standard error unless given.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    out = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer(sort_keys=False)
    else:
        renderer = _TextRenderer(colours=out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,  # a second call must reach loggers that modules made at import
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak of every request at INFO; what they say there is for their own developers.
    root.setLevel(number if level == "debug" else max(number, logging.WARNING))


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replaces the values of keys that name a secret."""
    for key in event:
        lowered = key.lower()
        if any(word in lowered for word in _SECRET_WORDS):
            event[key] = _MASK
    return event


class _TextRenderer:
    """`12:34:56.789 info  event  key=value ...`; values with spaces or controls are quoted."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        moment = _clock_time(str(event.pop("ts", "")))
        level = str(event.pop("level", "info"))
        name = str(event.pop("event", ""))
        trace = event.pop("exception", None)
        tag = f"{level:<7}"
        if self._colours and level in _LEVEL_COLOURS:
            tag = f"{_LEVEL_COLOURS[level]}{tag}{_RESET}"
        pairs = " ".join(f"{key}={_quoted(value)}" for key, value in event.items())
        line = f"{moment} {tag} {_escaped(name)}"
        if pairs:
            line = f"{line}  {pairs}"
        return f"{line}\n{trace}" if trace else line


def _clock_time(stamp: str) -> str:
    try:
        return datetime.datetime.fromisoformat(stamp).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return stamp


def _escaped(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if text and text.isprintable() and not any(c in ' "=' for c in text):
        return text
    return '"' + _escaped(text).replace('"', '\\"') + '"'
