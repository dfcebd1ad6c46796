import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from isthmus.cli import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_carry_event_level_time_and_values() -> None:
    out = io.StringIO()
    logs.configure(log_format="json", stream=out)
    structlog.get_logger().info("watch healthy", resource="pods")

    line = json.loads(out.getvalue())

    assert (line["event"], line["level"], line["resource"]) == ("watch healthy", "info", "pods")
    assert line["ts"].endswith("Z")


def test_text_is_one_line_whatever_the_values_hold() -> None:
    out = io.StringIO()
    logs.configure(log_format="text", stream=out)
    structlog.get_logger().warning("object dropped", name="a\nb\x1b[31m", reason="two words")

    text = out.getvalue()

    assert text.count("\n") == 1
    assert text.endswith('warning object dropped  name="a\\nb\\x1b[31m" reason="two words"\n')


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_masked(log_format: logs.LogFormat) -> None:
    out = io.StringIO()
    logs.configure(log_format=log_format, stream=out)
    structlog.get_logger().info("x", bearer_token="hunter2", Authorization="Bearer hunter2")

    assert "hunter2" not in out.getvalue()


def test_the_standard_librarys_loggers_end_in_the_same_place_and_form() -> None:
    out = io.StringIO()
    logs.configure(log_format="json", stream=out)
    logging.getLogger("aiohttp.server").error("it %s", "broke")
    logging.getLogger("aiohttp.access").info("GET /")

    line = json.loads(out.getvalue())

    assert (line["event"], line["logger"], line["level"]) == ("it broke", "aiohttp.server", "error")


def test_levels_filter_and_an_unknown_level_is_refused() -> None:
    out = io.StringIO()
    logs.configure(level="warning", stream=out)
    structlog.get_logger().info("quiet")

    assert out.getvalue() == ""
    with pytest.raises(ValueError, match="'loud' is not one of debug, info, warning, error"):
        logs.configure(level="loud")


def test_a_logger_made_before_the_set_up_follows_it() -> None:
    log = structlog.get_logger()
    out = io.StringIO()
    logs.configure(log_format="json", stream=out)
    log.bind(cluster="c1").error("late")

    assert json.loads(out.getvalue())["cluster"] == "c1"
