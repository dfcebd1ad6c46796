"""Subcommands and their flags, as cobra reads them."""

import sys
from collections.abc import Callable

from isthmus.model.durations import seconds

Values = dict[str, str]


class UsageError(Exception):
    """The arguments are wrong; the message is cobra's."""


class Command:
    """A subcommand: `flags` are name -> (kind, default), kind is int, bool, string or duration."""

    def __init__(
        self, run: Callable[[list[str], Values], int], flags: dict[str, tuple[str, str]], *, words: tuple[int, int]
    ) -> None:
        self.run = run
        self.flags = flags
        self.words = words


_HELP = "Available Commands:\n  {}\n\nThis is the lab's agnhost, which has what network tests need.\n"
_SHORT = {"logs-generator": {"t": "log-lines-total", "d": "run-duration"}}


def commands() -> dict[str, Command]:
    """Returns the subcommands; each imports what it needs when it runs."""

    def lazily(module: str, name: str) -> Callable[[list[str], Values], int]:
        def run(words: list[str], values: Values) -> int:
            found = __import__(f"{__package__}.{module}", fromlist=[name])
            result: int = getattr(found, name)(words, values)
            return result

        return run

    netexec = {"http-port": ("int", "8080"), "udp-port": ("int", "8081"), "sctp-port": ("int", "-1"),
               "http-override": ("string", ""),
               "udp-listen-addresses": ("string", ""), "delay-shutdown": ("int", "0"), "tls-cert-file": ("string", ""),
               "tls-private-key-file": ("string", "")}  # fmt: skip
    hostname = {"port": ("int", "9376"), "tcp": ("bool", "false"), "udp": ("bool", "false"), "http": ("bool", "true"),
                "close": ("bool", "false")}  # fmt: skip
    connect = {"timeout": ("duration", "0"), "protocol": ("string", "tcp"), "udp-data": ("string", "hostname"),
               "sctp-data": ("string", "hostname")}  # fmt: skip
    logs = {"log-lines-total": ("int", "0"), "run-duration": ("duration", "0")}
    none = (0, 0)
    many = (0, 1000)
    return {
        "connect": Command(lazily("connect", "connect"), connect, words=(1, 1)),
        "dns-server-list": Command(lazily("telling", "dns_server_list"), {}, words=none),
        "dns-suffix": Command(lazily("telling", "dns_suffix"), {}, words=none),
        "entrypoint-tester": Command(lazily("telling", "entrypoint_tester"), {}, words=many),
        "etc-hosts": Command(lazily("telling", "etc_hosts"), {}, words=none),
        "liveness": Command(lazily("serving", "liveness"), {}, words=none),
        "logs-generator": Command(lazily("telling", "logs_generator"), logs, words=none),
        "netexec": Command(lazily("netexec", "netexec"), netexec, words=none),
        "pause": Command(lazily("telling", "pause"), {}, words=none),
        "porter": Command(lazily("serving", "porter"), {"json-response": ("bool", "false")}, words=none),
        "serve-hostname": Command(lazily("serving", "serve_hostname"), hostname, words=none),
        "test-webserver": Command(lazily("serving", "test_webserver"), {"port": ("int", "80")}, words=none),
    }


def main(argv: list[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    known = commands()
    if not argv or argv[0] in ("help", "--help", "-h"):
        sys.stdout.write(_HELP.format("\n  ".join(known)))
        return 0
    if argv[0] == "--version":
        sys.stdout.write("app version 2.39\n")
        return 0
    name, *rest = argv
    command = known.get(name)
    try:
        if command is None:
            raise UsageError(f'unknown command "{name}" for "app"')
        if name == "entrypoint-tester":
            return command.run(rest, {})
        words, values = parse(rest, command, short=_SHORT.get(name, {}))
        return command.run(words, values)
    except UsageError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1


def parse(argv: list[str], command: Command, *, short: dict[str, str] | None = None) -> tuple[list[str], Values]:
    """Returns words and flags with their defaults; raises UsageError."""
    values = {name: default for name, (_kind, default) in command.flags.items()}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = (short or {}).get(name, name)
        if name not in command.flags:
            raise UsageError(f"unknown flag: --{name}")
        kind = command.flags[name][0]
        if not equals:
            if kind == "bool":
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise UsageError(f"flag needs an argument: --{name}")
        check(name, kind, value)
        values[name] = value
    low, high = command.words
    if not low <= len(words) <= high:
        expected = f"accepts {low} arg(s)" if low == high and low else f"accepts at most {high} arg(s)"
        raise UsageError(f"{expected}, received {len(words)}")
    return words, values


def check(name: str, kind: str, value: str) -> None:
    """Raises UsageError unless a value is of its kind."""
    number = value.removeprefix("-")
    good = {
        "int": number.isascii() and number.isdigit() and len(number) < 10,
        "bool": value in ("true", "false", "1", "0", "t", "f", "T", "F", "TRUE", "FALSE", "True", "False"),
        "duration": seconds(value) is not None,
        "string": True,
    }[kind]
    if not good:
        reason = {"int": f'strconv.ParseInt: parsing "{value}": invalid syntax', "bool": f'strconv.ParseBool: parsing '
                  f'"{value}": invalid syntax', "duration": f'time: invalid duration "{value}"'}[kind]  # fmt: skip
        raise UsageError(f'invalid argument "{value}" for "--{name}" flag: {reason}')


def is_true(value: str) -> bool:
    """Returns a checked boolean."""
    return value[0] in "tT1"
