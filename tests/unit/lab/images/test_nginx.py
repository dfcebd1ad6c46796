"""nginx's configuration, and what is answered by it."""

import os
from pathlib import Path

import pytest

from isthmus.lab.images.programs.messages import Request, Response
from isthmus.lab.images.programs.nginx.answering import Answerer, resolve
from isthmus.lab.images.programs.nginx.grammar import ConfigError, Reader
from isthmus.lab.images.programs.nginx.main import Options, install, load, log_text, parse
from isthmus.lab.images.programs.nginx.site import Site, build
from isthmus.lab.images.programs.nginx.stock import FILES, TYPES


def site_of(text: str, **files: str) -> Site:
    def read_file(path: str) -> str:
        try:
            return files[path]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory", path) from None

    return build(
        Reader(read_file, lambda pattern: [name for name in sorted(files) if "*" in pattern]).parse(text, "nginx.conf")
    )


def server(body: str) -> Site:
    return site_of(f"http {{ server {{ {body} }} }}")


def answer(
    site: Site, path: str, *, method: str = "GET", host: str = "web", port: int = 80, **headers: str
) -> Response:
    fields = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = Request(f"{method} {path} HTTP/1.1", fields, peer=("10.0.0.9", 1234), local=("10.0.0.1", port))
    response, _scope = Answerer(site, pages={}, types=TYPES).answer(request)
    return response


def body_of(response: Response) -> bytes:
    if response.file < 0:
        return response.body
    with os.fdopen(response.file, "rb") as file:
        return file.read()


def field(response: Response, name: str) -> str:
    return dict(response.headers).get(name, "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text('{"Cluster": "Koornacht"}\n')
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / "plain").write_text("text")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "page.html").write_text("page")
    return tmp_path


def test_files_are_served_with_their_types(root: Path) -> None:
    site = server(f"location / {{ root {root}; index index.html; }}")
    index = answer(site, "/")
    assert (index.status, field(index, "Content-Type"), body_of(index)) == (
        200,
        "text/html",
        b'{"Cluster": "Koornacht"}\n',
    )
    assert field(answer(site, "/data.json"), "Content-Type") == "application/json"
    assert field(answer(site, "/plain"), "Content-Type") == "application/octet-stream"
    assert answer(site, "/nope").status == 404
    assert answer(site, "/sub/").status == 403
    moved = answer(site, "/sub")
    assert (moved.status, field(moved, "Location")) == (301, "http://web/sub/")
    assert answer(site, "/index.html", method="POST").status == 405


def test_unchanged_files_are_not_sent_again(root: Path) -> None:
    site = server(f"root {root};")
    first = answer(site, "/index.html")
    body_of(first)
    assert answer(site, "/index.html", if_none_match=field(first, "ETag")).status == 304
    assert answer(site, "/index.html", if_modified_since=field(first, "Last-Modified")).status == 304
    changed = answer(site, "/index.html", if_none_match='"other"', if_modified_since=field(first, "Last-Modified"))
    assert (changed.status, bool(body_of(changed))) == (200, True)


@pytest.mark.parametrize("path", ["/../etc/passwd", "/sub/../../x", "/%2e%2e/%2e%2e/etc/passwd", "/a/../../b"])
def test_no_path_leaves_the_root(root: Path, path: str) -> None:
    assert answer(server(f"root {root / 'sub'};"), path).status == 400


def test_paths_are_made_plain() -> None:
    assert resolve("/a//b/./c/../d/") == "/a/b/d/"
    assert resolve("/") == "/"
    assert resolve("/..") is None


def test_locations_are_chosen_as_nginx_chooses() -> None:
    site = server("""
        location / { return 200 root; }
        location /images/ { return 200 prefix; }
        location ^~ /static/ { return 200 static; }
        location = /images/x.png { return 200 exact; }
        location ~ \\.png$ { return 200 regex; }
        location ~* \\.JPG$ { return 200 anycase; }
    """)
    chosen = {"/x": "root", "/images/a": "prefix", "/images/x.png": "exact", "/images/y.png": "regex"}
    for path, expected in (chosen | {"/static/y.png": "static", "/a.jpg": "anycase"}).items():
        assert answer(site, path).body.decode() == expected


def test_servers_are_chosen_by_port_and_name() -> None:
    site = site_of("""http {
        server { listen 80; server_name a.test; return 200 a; }
        server { listen 80 default_server; server_name *.b.test; return 200 b; }
        server { listen [::]:81; server_name ~^c[0-9]+$; return 200 c; }
    }""")
    assert answer(site, "/", host="a.test:80").body == b"a"
    assert answer(site, "/", host="x.b.test").body == b"b"
    assert answer(site, "/", host="unknown").body == b"b"
    assert answer(site, "/", host="c5", port=81).body == b"c"
    assert site.addresses == [("", 80), ("", 81)]


def test_answers_without_files() -> None:
    site = server("""
        default_type text/plain;
        add_header X-From $hostname;
        location /hello { return 200 "hi ${remote_addr} $http_x_name $arg_q\\n"; }
        location /away { return 301 https://example.org$request_uri; }
        location /gone { return 410; }
        location /teapot { return 418 "short"; }
    """)
    hello = answer(site, "/hello?q=7", x_name="Bob")
    assert (hello.status, hello.body, field(hello, "Content-Type")) == (200, b"hi 10.0.0.9 Bob 7\n", "text/plain")
    assert field(hello, "X-From")
    away = answer(site, "/away?x=1")
    assert (away.status, field(away, "Location")) == (301, "https://example.org/away?x=1")
    assert answer(site, "/gone").status == 410
    assert answer(site, "/teapot").body == b"short"


def test_files_are_tried_in_turn_and_errors_have_pages(root: Path) -> None:
    (root / "error.html").write_text("sorry")
    site = server(f"""
        root {root}; error_page 404 /error.html;
        location /app {{ try_files $uri $uri.html /index.html; }}
        location /alias/ {{ alias {root}/sub/; }}
        location /list/ {{ alias {root}/; index none; autoindex on; }}
    """)
    assert body_of(answer(site, "/app/deep")) == b'{"Cluster": "Koornacht"}\n'
    missing = answer(site, "/nope")
    assert (missing.status, body_of(missing)) == (404, b"sorry")
    assert body_of(answer(site, "/alias/page.html")) == b"page"
    assert b'href="sub/"' in answer(site, "/list/").body


def test_a_circle_of_redirects_ends(root: Path) -> None:
    site = server(f"root {root}; location / {{ try_files /none /again; }}")
    assert answer(site, "/x").status == 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http { server { listen 80; ", 'unexpected end of file, expecting "}" in nginx.conf:1'),
        ("http { server { listen 80 } }", 'unexpected "}" in nginx.conf:1'),
        ("}", 'unexpected "}" in nginx.conf:1'),
        ("http { server {\n\nfoo bar; } }", 'unknown directive "foo" in nginx.conf:3'),
        (
            "http { server { location / { proxy_pass http://x; } } }",
            'directive "proxy_pass" is not supported by the lab',
        ),
        ("http { server { listen 443 ssl; } }", '"listen ... ssl" is not supported'),
        ("http { server { listen 99999; } }", 'invalid port in "99999"'),
        ("http { server { root; } }", 'invalid number of arguments in "root" directive'),
        ("http { server { root /a; root /b; } }", '"root" directive is duplicate'),
        ("http { server { return abc; } }", 'invalid return code "abc"'),
        ("http { server { location ~ ( { } } }", "pcre2_compile() failed"),
        ("http { server { location / { } location / { } } }", 'duplicate location "/"'),
        ("server { }", '"server" directive is not allowed here'),
        ("http { }", "no server is configured"),
        ('http { server { root "/a; } }', "expecting closing quote"),
        ("include nginx.conf;", "open()"),
        ("{", 'unexpected "{"'),
        ("a " + "{ a " * 100, "nested too deeply"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        site_of(text)
    assert message in str(caught.value)


def test_a_file_that_includes_itself_is_an_error() -> None:
    with pytest.raises(ConfigError, match="includes"):
        site_of("include /x;", **{"/x": "include /x;"})


def test_the_files_of_the_image_are_a_configuration(tmp_path: Path) -> None:
    start = load(parse(["-g", "daemon off; pid /tmp/own.pid;"]), dict(FILES), [])
    assert start.site.addresses == [("", 80)] and not start.daemon
    assert load(parse([]), dict(FILES), []).pid_file == "/run/nginx.pid"
    files = {f"{tmp_path}{path}": text for path, text in FILES.items()}
    (tmp_path / "etc/nginx/conf.d").mkdir(parents=True)
    (tmp_path / "etc/nginx/conf.d/default.conf").write_text("mine")
    assert install(files) == {}
    assert (tmp_path / "etc/nginx/conf.d/default.conf").read_text() == "mine"
    assert "Welcome" in (tmp_path / "usr/share/nginx/html/index.html").read_text()


@pytest.mark.parametrize("argv", [["-x"], ["-g"], ["start"], ["-s", "jump"]])
def test_bad_options_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse(argv)
    assert Options().config == "/etc/nginx/nginx.conf"


def test_a_log_line_stays_one_line() -> None:
    assert log_text('a"b\\c\n\x00é') == "a\\x22b\\x5Cc\\x0A\\x00\\xE9"
