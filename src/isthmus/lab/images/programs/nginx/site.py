"""What a configuration means: servers with their locations, and which of them a request is for.

Invariants: a directive that nginx knows and this server does not obey is refused by name, so that no pod runs with
half of its configuration; settings are inherited from the block around. Rejected: ignoring what is not understood,
which serves an open page where the file says `auth_basic`.
"""

import re
from collections.abc import Sequence

from isthmus.lab.images.programs.nginx.grammar import ConfigError, Directive

SETTINGS = {
    "root": 1, "index": -1, "default_type": 1, "autoindex": 1, "alias": 1, "try_files": -2, "return": -1,
    "add_header": -2, "error_page": -2, "access_log": -1, "client_max_body_size": 1, "server_tokens": 1,
}  # fmt: skip
"""Directives that are obeyed, with how many arguments they take; negative: at least so many."""
LISTS = ("add_header", "error_page")
IGNORED = frozenset(
    """user worker_processes worker_rlimit_nofile worker_connections pid error_log daemon master_process events
    multi_accept use accept_mutex sendfile tcp_nopush tcp_nodelay keepalive_timeout keepalive_requests
    types_hash_max_size
    types_hash_bucket_size server_names_hash_bucket_size gzip gzip_types gzip_min_length gzip_comp_level gzip_vary
    gzip_proxied gzip_static charset log_not_found etag if_modified_since aio directio output_buffers
    client_body_timeout client_header_timeout send_timeout client_body_buffer_size client_header_buffer_size
    large_client_header_buffers reset_timedout_connection open_file_cache open_file_cache_valid open_file_cache_errors
    absolute_redirect expires client_body_temp_path proxy_temp_path fastcgi_temp_path uwsgi_temp_path scgi_temp_path
    worker_shutdown_timeout thread_pool pcre_jit env load_module underscores_in_headers
    ignore_invalid_headers server_name_in_redirect port_in_redirect merge_slashes""".split()
)
"""Directives that change how fast or how tidy nginx is, not what it answers (or what the lab does in its own way)."""
UNSUPPORTED = frozenset(
    """proxy_pass fastcgi_pass uwsgi_pass scgi_pass grpc_pass memcached_pass ssl_certificate ssl_certificate_key
    ssl_protocols ssl_ciphers upstream map geo split_clients limit_req limit_req_zone limit_conn limit_conn_zone
    auth_basic auth_basic_user_file auth_request allow deny rewrite if set internal satisfy stub_status
    stream mail sub_filter
    proxy_set_header proxy_http_version proxy_redirect proxy_cache proxy_cache_path mirror dav_methods limit_except
    secure_link resolver real_ip_header set_real_ip_from http2 http3 perl js_import js_content image_filter
    proxy_read_timeout proxy_connect_timeout proxy_send_timeout proxy_buffering random_index limit_rate
    addition_types add_after_body add_before_body ssi referer_hash_max_size valid_referers""".split()
)

Listen = tuple[str, int, bool]
"""Address (empty: all), port, whether it is the default server of that port."""


class Scope:
    """Settings of a block, with those around it behind them."""

    def __init__(self, outer: "Scope | None" = None) -> None:
        self.outer = outer
        self.own: dict[str, list[list[str]]] = {}

    def get(self, name: str) -> list[str]:
        """Returns the arguments of the innermost directive of that name; empty if there is none."""
        rows = self.rows(name)
        return rows[-1] if rows else []

    def rows(self, name: str) -> list[list[str]]:
        """Returns all of the innermost block that has any."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.outer
        return []


class Location(Scope):
    """A `location` block; `kind` is "", "=", "^~", "~", "~*" or "@"."""

    def __init__(self, outer: Scope, kind: str, text: str, pattern: "re.Pattern[str] | None") -> None:
        super().__init__(outer)
        self.kind = kind
        self.text = text
        self.pattern = pattern


class VirtualServer(Scope):
    """A `server` block."""

    def __init__(self, outer: Scope) -> None:
        super().__init__(outer)
        self.listens: list[Listen] = []
        self.names: list[str] = []
        self.locations: list[Location] = []

    def location(self, uri: str) -> Location | None:
        """Returns the location that nginx chooses: exact, then the longest prefix, unless a pattern matches."""
        best: Location | None = None
        for found in self.locations:
            if found.kind == "=" and found.text == uri:
                return found
            if found.kind in ("", "^~") and uri.startswith(found.text):
                if best is None or len(found.text) > len(best.text):
                    best = found
        if best is not None and best.kind == "^~":
            return best
        for found in self.locations:
            if found.pattern is not None and found.pattern.search(uri):
                return found
        return best

    def named(self, name: str) -> Location | None:
        """Returns the location `@name`."""
        return next((found for found in self.locations if found.kind == "@" and found.text == name), None)


class Site:
    """All servers."""

    def __init__(self) -> None:
        self.servers: list[VirtualServer] = []
        self.formats: dict[str, str] = {}
        self.types: dict[str, str] = {}

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Returns where to listen, each once; an address for all covers the others of its port."""
        wanted = {(host, port) for server in self.servers for host, port, _ in server.listens}
        return sorted(place for place in wanted if place[0] == "" or ("", place[1]) not in wanted)

    def server(self, host: str, *, port: int) -> VirtualServer:
        """Returns the server for a Host header on a port."""
        name = host.lower().partition("]")[0].lstrip("[") if host.startswith("[") else host.lower().partition(":")[0]
        there = [server for server in self.servers if any(at[1] == port for at in server.listens)] or self.servers
        for match in (_is_name, _is_wildcard, _is_pattern):
            for server in there:
                if any(match(pattern, name) for pattern in server.names):
                    return server
        for server in there:
            if any(at[1] == port and at[2] for at in server.listens):
                return server
        return there[0]


def build(directives: Sequence[Directive]) -> Site:
    """Returns what the main file says; raises ConfigError."""
    site = Site()
    outermost = Scope()
    seen = False
    for directive in directives:
        if directive.name == "http":
            if directive.block is None:
                raise directive.error('directive "http" has no opening "{"')
            if seen:
                raise directive.error('"http" directive is duplicate')
            seen = True
            _http(site, directive.block, Scope(outermost))
        elif directive.name not in IGNORED:
            raise _refusal(directive)
    if not site.servers:
        raise ConfigError("no server is configured")
    return site


def _http(site: Site, block: Sequence[Directive], scope: Scope) -> None:
    for directive in block:
        match directive.name:
            case "server":
                site.servers.append(_server(directive, scope))
            case "log_format":
                if len(directive.args) < 2:
                    raise directive.error('invalid number of arguments in "log_format" directive')
                words = [word for word in directive.args[1:] if not word.startswith("escape=")]
                site.formats[directive.args[0]] = "".join(words)
            case "types":
                for line in directive.block or ():
                    for extension in line.args:
                        site.types[extension.lower()] = line.name
            case _:
                _setting(directive, scope, at="http")


def _server(server: Directive, outer: Scope) -> VirtualServer:
    found = VirtualServer(outer)
    if server.block is None:
        raise server.error('directive "server" has no opening "{"')
    for directive in server.block:
        match directive.name:
            case "listen":
                found.listens.append(_listen(directive))
            case "server_name":
                found.names += directive.args
                for name in directive.args:
                    if name.startswith("~"):
                        _compile(directive, name[1:])
            case "location":
                _location(directive, found, found)
            case _:
                _setting(directive, found, at="server")
    if not found.listens:
        found.listens.append(("", 80, False))
    return found


def _location(directive: Directive, server: VirtualServer, outer: Scope) -> None:
    args = directive.args
    if directive.block is None or len(args) not in (1, 2):
        raise directive.error('invalid number of arguments in "location" directive')
    kind, text = ("", args[0]) if len(args) == 1 else args
    if len(args) == 1:
        for mark in ("=", "^~", "~*", "~"):
            if text.startswith(mark):
                kind, text = mark, text[len(mark) :]
                break
    if text.startswith("@") and not kind:
        kind = "@"
    pattern = None
    if kind in ("~", "~*"):
        pattern = _compile(directive, text, re.IGNORECASE if kind == "~*" else 0)
    elif kind not in ("", "=", "^~", "@"):
        raise directive.error(f'invalid location modifier "{kind}"')
    if any((other.kind, other.text) == (kind, text) for other in server.locations):
        raise directive.error(f'duplicate location "{text}"')
    found = Location(outer, kind, text, pattern)
    # An alias, a try_files and a return are of their own block alone.
    found.own |= {"alias": [], "try_files": [], "return": []}
    server.locations.append(found)
    for inner in directive.block:
        if inner.name == "location":
            _location(inner, server, found)
        else:
            _setting(inner, found, at="location")


def _setting(directive: Directive, scope: Scope, *, at: str) -> None:
    name = directive.name
    if name in IGNORED:
        return
    if name not in SETTINGS or (name in ("alias",) and at != "location"):
        raise _refusal(directive)
    count = SETTINGS[name]
    given = len(directive.args)
    if directive.block is not None or (given != count if count >= 0 else given < -count):
        raise directive.error(f'invalid number of arguments in "{name}" directive')
    if name == "return":
        code = directive.args[0]
        if given > 2 or not ((code.isdigit() and int(code) < 1000) or (given == 1 and "://" in code)):
            raise directive.error(f'invalid return code "{code}"')
    elif name == "client_max_body_size" and not re.fullmatch(r"\d{1,9}[kKmMgG]?", directive.args[0]):
        raise directive.error(f'"client_max_body_size" directive invalid value "{directive.args[0]}"')
    elif name == "error_page" and not all(code.isdigit() for code in directive.args[:-1] if code[0] != "="):
        raise directive.error(f'invalid value "{directive.args[0]}"')
    if name in LISTS:
        scope.own.setdefault(name, []).append(directive.args)
    elif scope.own.get(name):
        if name not in ("access_log", "return"):
            raise directive.error(f'"{name}" directive is duplicate')
    else:
        scope.own[name] = [directive.args]


def _listen(directive: Directive) -> Listen:
    if not directive.args:
        raise directive.error('invalid number of arguments in "listen" directive')
    place, *options = directive.args
    for option in options:
        if option in ("ssl", "quic", "http3", "proxy_protocol"):
            raise directive.error(f'"listen ... {option}" is not supported by the lab\'s nginx')
    if place.startswith("unix:"):
        raise directive.error("sockets of UNIX are not supported by the lab's nginx")
    host, colon, port = ("", ":", place) if place.isdigit() else place.rpartition(":")
    if not colon or (place.startswith("[") and place.endswith("]")):
        host, port = place, "80"
    host = host.strip("[]")
    if not (port.isdigit() and 0 < int(port) < 65536):
        raise directive.error(f'invalid port in "{place}" of the "listen" directive')
    if host in ("*", "0.0.0.0", "::"):
        host = ""
    return host, int(port), "default_server" in options or "default" in options


def _compile(directive: Directive, text: str, flags: int = 0) -> "re.Pattern[str]":
    try:
        return re.compile(text, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise directive.error(f'pcre2_compile() failed: {error} in "{text}"') from error


def _refusal(directive: Directive) -> ConfigError:
    name = directive.name
    if name in UNSUPPORTED or name.startswith(("proxy_", "ssl_", "fastcgi_", "grpc_", "limit_", "auth_")):
        return directive.error(f'directive "{name}" is not supported by the lab\'s nginx')
    if name in SETTINGS or name in ("server", "location", "listen", "server_name", "http", "types", "log_format"):
        return directive.error(f'"{name}" directive is not allowed here')
    return directive.error(f'unknown directive "{name}"')


def _is_name(pattern: str, name: str) -> bool:
    return pattern.lower() == name or (pattern.startswith(".") and pattern[1:].lower() == name)


def _is_wildcard(pattern: str, name: str) -> bool:
    pattern = pattern.lower()
    if pattern.startswith(("*.", ".")):
        return name.endswith(pattern.lstrip("*"))
    return pattern.endswith(".*") and name.startswith(pattern[:-1])


def _is_pattern(pattern: str, name: str) -> bool:
    return pattern.startswith("~") and re.search(pattern[1:], name) is not None
