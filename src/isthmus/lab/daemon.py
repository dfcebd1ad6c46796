"""What the lab's daemons share: how they log and how they begin.

Their standard output is a pipe to the supervisor, which writes it to a file per component: plain lines, one an event.
"""

import gc
import logging
import sys

import structlog

from isthmus.kernel.memory import trim


def set_up_logging() -> None:
    """Sends structlog and the standard library's loggers to standard output, in logfmt with UTC times."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["ts", "level", "event"], drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=sys.stdout, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )


def settle_memory() -> None:
    """Tells the collector that what start-up imported stays: idle daemons are many here, and each counts."""
    gc.collect()
    gc.freeze()
    trim()
