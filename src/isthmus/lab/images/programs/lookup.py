"""`nslookup` and `dig` for pods, as BIND's tools are used and what they print.

Why: busybox's nslookup does not search the pod's domains for names with a dot, and says that it failed when it did not.
Rejected: the whole of dig, of which people use a dozen options.
"""

import socket
import sys
import time
from collections.abc import Sequence

from isthmus.lab.images.programs.resolving import Answer, Config, NoAnswer, ask, candidates, read_config, reverse_name
from isthmus.wire.dns import (
    AA,
    AAAA,
    AD,
    ANY,
    AXFR,
    CNAME,
    IN,
    NOERROR,
    NS,
    NXDOMAIN,
    PTR,
    QR,
    RA,
    RD,
    SOA,
    SRV,
    TC,
    TXT,
    A,
    DnsError,
    Name,
    Question,
    Record,
    Soa,
    Srv,
    name_text,
    parse_name,
)

TYPES = {"A": A, "AAAA": AAAA, "ANY": ANY, "AXFR": AXFR, "CNAME": CNAME, "MX": 15, "NS": NS, "PTR": PTR, "SOA": SOA,
         "SRV": SRV, "TXT": TXT}  # fmt: skip
_NAMES = {number: name for name, number in TYPES.items()}
CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}
_FLAGS = ((QR, "qr"), (AA, "aa"), (TC, "tc"), (RD, "rd"), (RA, "ra"), (AD, "ad"))


class UsageError(Exception):
    """The arguments are wrong; the message says how."""


def nslookup(argv: list[str]) -> int:
    """Runs nslookup; returns the exit code."""
    config, port, kinds = read_config(), 53, [A, AAAA]
    words: list[str] = []
    try:
        for word in argv:
            name, _, value = word.lstrip("-").partition("=")
            if not word.startswith("-"):
                words.append(word)
            elif name in ("type", "query", "querytype", "q") and value.upper() in TYPES:
                kinds = [TYPES[value.upper()]]
            elif name == "port":
                port = number(value, 65535)
            elif name == "timeout":
                config = config._replace(timeout=float(number(value, 60)))
            elif name == "retry":
                config = config._replace(attempts=number(value, 10))
            elif name not in ("debug", "nodebug", "recurse", "search", "vc", "novc"):
                raise UsageError(f"*** Invalid option: {word.lstrip('-')}")
        if not 1 <= len(words) <= 2:
            raise UsageError("usage: nslookup [-type=TYPE] [-timeout=SECONDS] [-retry=N] [-port=N] NAME [SERVER]")
        if len(words) == 2:
            config = config._replace(servers=server_addresses(words[1]))
        reverse = reverse_name(words[0])
        names = candidates(words[0], config) if reverse is None else [reverse]
    except (UsageError, DnsError) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    kinds = [PTR] if reverse is not None and len(kinds) == 2 else kinds
    try:
        answers = first_that_exists(names, kinds, config, port)
    except NoAnswer as error:
        sys.stdout.write(f";; {error}\n\n")
        return 1
    first = answers[0]
    if reverse is None:
        sys.stdout.write(f"Server:\t\t{first.server}\nAddress:\t{first.server}#{first.port}\n\n")
    records = [record for answer in answers for record in answer.message.answers]
    code = first.message.rcode
    if code != NOERROR:
        sys.stdout.write(f"** server can't find {words[0].rstrip('.')}: {CODES.get(code, code)}\n\n")
        return 1
    if not records:
        sys.stdout.write(f"*** Can't find {words[0]}: No answer\n\n")
        return 1
    sys.stdout.write("".join(lookup_line(record) for record in dict.fromkeys(records)) + "\n")
    return 0


def first_that_exists(names: Sequence[Name], kinds: Sequence[int], config: Config, port: int) -> list[Answer]:
    """Returns the answers for the first of the names that exists, or those for the last; raises NoAnswer."""
    answers: list[Answer] = []
    for name in names:
        answers = [ask(Question(name, kind), config, port=port) for kind in kinds[:1]]
        if answers[0].message.rcode == NOERROR:
            answers += [ask(Question(name, kind), config, port=port) for kind in kinds[1:]]
            if any(answer.message.answers for answer in answers):
                return answers
        elif answers[0].message.rcode != NXDOMAIN:
            return answers
    return answers


def lookup_line(record: Record) -> str:
    """Returns a record as nslookup prints it."""
    name, text = name_text(record.name).rstrip("."), data_text(record)
    match record.type:
        case 1 | 28:
            return f"Name:\t{name}\nAddress: {text}\n"
        case 5:
            return f"{name}\tcanonical name = {text}\n"
        case 12:
            return f"{name}\tname = {text}\n"
        case 33:
            return f"{name}\tservice = {text}\n"
        case 16:
            return f"{name}\ttext = {text}\n"
        case 2:
            return f"{name}\tnameserver = {text}\n"
        case _:
            return f"{name}\t{_NAMES.get(record.type, f'TYPE{record.type}').lower()} = {text}\n"


def data_text(record: Record) -> str:
    """Returns a record's data in presentation form."""
    data = record.data
    if isinstance(data, Srv):
        return f"{data.priority} {data.weight} {data.port} {name_text(data.target)}"
    if isinstance(data, Soa):
        return f"{name_text(data.primary)} {name_text(data.contact)} {' '.join(str(number) for number in data[2:])}"
    if not isinstance(data, bytes):
        return name_text(data)
    if record.type in (A, AAAA):
        return socket.inet_ntop(socket.AF_INET if record.type == A else socket.AF_INET6, data)
    if record.type == TXT:
        texts, at = [], 0
        while at < len(data):
            texts.append(data[at + 1 : at + 1 + data[at]])
            at += 1 + data[at]
        return " ".join('"' + "".join(_shown(byte) for byte in text) + '"' for text in texts)
    return f"\\# {len(data)} {data.hex()}"


class DigOptions:
    """What dig was asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = 53
        self.name: str | None = None
        self.kind = A
        self.shows = {"cmd", "comments", "question", "answer", "authority", "additional", "stats"}
        self.short = self.search = self.tcp = False
        self.edns = self.recurse = True
        self.reverse: Name | None = None


def dig(argv: list[str]) -> int:
    """Runs dig; returns the exit code."""
    try:
        options = dig_options(argv)
        name = options.name if options.name is not None else "."
        if options.reverse is not None:
            names = [options.reverse]
        else:
            names = candidates(name, options.config) if options.search else [parse_name(name)]
    except (UsageError, DnsError) as error:
        sys.stderr.write(f"dig: {error}\n")
        return 1
    if "cmd" in options.shows and not options.short:
        sys.stdout.write(f"\n; <<>> DiG 9.18 <<>> {' '.join(argv)}\n;; global options: +cmd\n")
    try:
        for name_asked in names:
            question = Question(name_asked, options.kind)
            answer = ask(question, options.config, port=options.port, tcp=options.tcp, edns=options.edns,
                         recurse=options.recurse)  # fmt: skip
            if answer.message.rcode == NOERROR and answer.message.answers:
                break
    except NoAnswer as error:
        sys.stdout.write(f";; {error}\n")
        return 9
    if options.short:
        sys.stdout.write("".join(f"{data_text(record)}\n" for record in answer.message.answers))
    else:
        sys.stdout.write(dig_text(answer, options.shows))
    return 0


def dig_options(argv: Sequence[str]) -> DigOptions:
    """Returns the options; raises UsageError."""
    options = DigOptions(read_config())
    words = list(argv)
    while words:
        word = words.pop(0)
        if word.startswith("@"):
            options.config = options.config._replace(servers=server_addresses(word[1:]))
        elif word.startswith("+"):
            _plus(options, word[1:])
        elif word in ("-4", "-6"):
            continue
        elif word[:2] in ("-x", "-t", "-p", "-q", "-c"):
            value = word[2:] or (words.pop(0) if words else "")
            if word[1] == "x":
                options.reverse, options.kind = reverse_name(value), PTR
                if options.reverse is None:
                    raise UsageError(f"Invalid IP address {value}")
            elif word[1] == "t":
                options.kind = _kind(value)
            elif word[1] == "p":
                options.port = number(value, 65535)
            elif word[1] == "q":
                options.name = value
        elif word.startswith("-"):
            raise UsageError(f"Invalid option: {word}")
        elif word.upper() in TYPES and (options.name is not None or not words):
            options.kind = _kind(word)
        elif word.upper() != "IN":
            options.name = word
    return options


def _plus(options: DigOptions, text: str) -> None:
    name, _, value = text.partition("=")
    off = name.startswith("no")
    bare = name.removeprefix("no")
    if bare == "all":
        options.shows = set() if off else {"cmd", "comments", "question", "answer", "authority", "additional", "stats"}
    elif bare in ("cmd", "comments", "question", "answer", "authority", "additional", "stats"):
        options.shows = options.shows - {bare} if off else options.shows | {bare}
    elif bare == "short":
        options.short = not off
    elif bare == "search":
        options.search = not off
    elif bare in ("tcp", "vc"):
        options.tcp = not off
    elif bare == "edns":
        options.edns = not off
    elif bare in ("recurse", "rec"):
        options.recurse = not off
    elif name in ("time", "timeout"):
        options.config = options.config._replace(timeout=float(number(value, 60)))
    elif name in ("tries", "retry"):
        options.config = options.config._replace(attempts=number(value, 10))
    elif name == "ndots":
        options.config = options.config._replace(ndots=number(value, 15))
    elif bare not in ("cookie", "dnssec", "adflag", "cdflag", "ignore", "ttlid", "bufsize", "idnout", "idnin"):
        raise UsageError(f"Invalid option: +{text}")


def dig_text(answer: Answer, shows: set[str]) -> str:
    """Returns an answer as dig prints it."""
    message = answer.message
    lines: list[str] = []
    if "comments" in shows:
        flags = " ".join(name for bit, name in _FLAGS if message.flags & bit)
        extra = len(message.additionals) + (message.edns is not None)
        counts = f"QUERY: {len(message.questions)}, ANSWER: {len(message.answers)}"
        lines += [
            ";; Got answer:",
            f";; ->>HEADER<<- opcode: QUERY, status: {CODES.get(message.rcode, message.rcode)}, id: {message.id}",
            f";; flags: {flags}; {counts}, AUTHORITY: {len(message.authorities)}, ADDITIONAL: {extra}",
            "",
        ]
        if message.edns is not None:
            lines += [";; OPT PSEUDOSECTION:", f"; EDNS: version: 0, flags:; udp: {message.edns.size}"]
    if "question" in shows:
        lines += [";; QUESTION SECTION:"] if "comments" in shows else []
        lines += [f";{name_text(found.name)}\t\tIN\t{_type(found.type)}" for found in message.questions] + [""]
    sections = (("answer", message.answers), ("authority", message.authorities), ("additional", message.additionals))
    for name, records in sections:
        if name in shows and records:
            lines += [f";; {name.upper()} SECTION:"] if "comments" in shows else []
            lines += [dig_line(record) for record in records]
            lines += [""] if "comments" in shows else []
    if "stats" in shows:
        lines += [
            f";; Query time: {round(answer.seconds * 1000)} msec",
            f";; SERVER: {answer.server}#{answer.port}({answer.server}) ({'TCP' if answer.tcp else 'UDP'})",
            f";; WHEN: {time.strftime('%a %b %d %H:%M:%S %Z %Y')}",
            f";; MSG SIZE  rcvd: {answer.size}",
            "",
        ]
    return "".join(f"{line}\n" for line in lines)


def dig_line(record: Record) -> str:
    """Returns a record as in a zone's file."""
    cls = "IN" if record.cls == IN else f"CLASS{record.cls}"
    return f"{name_text(record.name)}\t{record.ttl}\t{cls}\t{_type(record.type)}\t{data_text(record)}"


def server_addresses(name: str) -> tuple[str, ...]:
    """Returns the addresses of a server; raises UsageError."""
    try:
        found = socket.getaddrinfo(name, 53, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"couldn't get address for '{name}': not found") from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def number(text: str, most: int) -> int:
    """Returns a number from 1 to `most`; raises UsageError."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= most):
        raise UsageError(f"'{text}' is not a number from 1 to {most}")
    return int(text)


def _kind(text: str) -> int:
    if text.upper() not in TYPES:
        raise UsageError(f"unknown type {text}")
    return TYPES[text.upper()]


def _type(kind: int) -> str:
    return _NAMES.get(kind, f"TYPE{kind}")


def _shown(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03}"
