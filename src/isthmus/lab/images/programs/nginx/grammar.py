"""nginx's configuration files as directives: words, blocks, includes.

Invariants: every directive knows its file and line; includes are bounded, so a file that includes itself is an error
and not a full memory. Messages are nginx's own. Rejected: a parser of another project for this grammar, as all there
are import more than this whole server.
"""

from collections.abc import Callable, Iterable

MAX_FILE = 1024 * 1024
MAX_FILES = 100
MAX_DIRECTIVES = 20_000
MAX_DEPTH = 20

ReadFile = Callable[[str], str]
"""Returns the text of a file; raises OSError."""
Glob = Callable[[str], Iterable[str]]
"""Returns the files that match a pattern, sorted."""


class ConfigError(Exception):
    """The configuration cannot be used; the message is nginx's, with file and line."""


class Directive:
    """`name args... ;` or `name args... { block }`."""

    __slots__ = ("args", "block", "file", "line", "name")

    def __init__(self, name: str, args: list[str], block: "list[Directive] | None", file: str, line: int) -> None:
        self.name = name
        self.args = args
        self.block = block
        self.file = file
        self.line = line

    def error(self, message: str) -> ConfigError:
        """Returns an error with this directive's place."""
        return ConfigError(f"{message} in {self.file}:{self.line}")


class Reader:
    """Reads a file and what it includes; relative names are below `prefix`."""

    def __init__(self, read_file: ReadFile, glob: Glob, *, prefix: str = "/etc/nginx") -> None:
        self._read_file = read_file
        self._glob = glob
        self._prefix = prefix
        self._files = 0
        self._directives = 0

    def read(self, path: str, *, depth: int = 0) -> list[Directive]:
        """Returns the directives of a file; raises ConfigError."""
        self._files += 1
        if self._files > MAX_FILES or depth > MAX_DEPTH:
            raise ConfigError(f'too many or too deep includes at "{path}"')
        try:
            text = self._read_file(path)
        except OSError as error:
            raise ConfigError(f'open() "{path}" failed ({error.errno}: {error.strerror})') from error
        if len(text) > MAX_FILE:
            raise ConfigError(f'"{path}" is longer than {MAX_FILE} bytes')
        return self.parse(text, path, depth=depth)

    def parse(self, text: str, path: str, *, depth: int = 0) -> list[Directive]:
        """Returns the directives of a text; raises ConfigError."""
        words = list(tokens(text, path))
        found, at = self._block(words, 0, path, depth=depth, top=True)
        assert at == len(words)  # noqa: S101
        return found

    def _block(
        self, words: list[tuple[str, bool, int]], at: int, path: str, *, depth: int, top: bool
    ) -> tuple[list[Directive], int]:
        found: list[Directive] = []
        if depth > MAX_DEPTH:
            raise ConfigError(f"blocks are nested too deeply in {path}:{words[at - 1][2]}")
        while at < len(words):
            word, quoted, line = words[at]
            if word == "}" and not quoted:
                if top:
                    raise ConfigError(f'unexpected "}}" in {path}:{line}')
                return found, at + 1
            if word in ("{", ";") and not quoted:
                raise ConfigError(f'unexpected "{word}" in {path}:{line}')
            at += 1
            args: list[str] = []
            while at < len(words) and (words[at][1] or words[at][0] not in ("{", "}", ";")):
                args.append(words[at][0])
                at += 1
            if at == len(words):
                raise ConfigError(f'unexpected end of file, expecting ";" or "}}" in {path}:{words[-1][2]}')
            end = words[at][0]
            at += 1
            if end == "}":
                raise ConfigError(f'unexpected "}}" in {path}:{words[at - 1][2]}')
            block = None
            if end == "{":
                block, at = self._block(words, at, path, depth=depth + 1, top=False)
            directive = Directive(word, args, block, path, line)
            self._directives += 1
            if self._directives > MAX_DIRECTIVES:
                raise directive.error("too many directives")
            if word == "include" and block is None:
                found += self._include(directive, depth=depth)
            else:
                found.append(directive)
        if not top:
            raise ConfigError(f'unexpected end of file, expecting "}}" in {path}:{words[-1][2] if words else 1}')
        return found, at

    def _include(self, directive: Directive, *, depth: int) -> list[Directive]:
        if len(directive.args) != 1:
            raise directive.error('invalid number of arguments in "include" directive')
        pattern = directive.args[0]
        if not pattern.startswith("/"):
            pattern = f"{self._prefix}/{pattern}"
        if any(letter in pattern for letter in "*?["):
            return [item for path in self._glob(pattern) for item in self.read(path, depth=depth + 1)]
        return self.read(pattern, depth=depth + 1)


def tokens(text: str, path: str) -> Iterable[tuple[str, bool, int]]:
    """Yields (word, whether it was quoted, line); raises ConfigError."""
    at, line, size = 0, 1, len(text)
    while at < size:
        letter = text[at]
        if letter == "\n":
            line += 1
            at += 1
        elif letter in " \t\r":
            at += 1
        elif letter == "#":
            end = text.find("\n", at)
            at = size if end < 0 else end
        elif letter in "{};":
            yield letter, False, line
            at += 1
        elif letter in "\"'":
            begin = line
            word = ""
            at += 1
            while at < size and text[at] != letter:
                if text[at] == "\\" and at + 1 < size and text[at + 1] in "\"'\\":
                    at += 1
                elif text[at] == "\\" and at + 1 < size and text[at + 1] in "nrt":
                    at += 1
                    word += {"n": "\n", "r": "\r", "t": "\t"}[text[at]]
                    at += 1
                    continue
                line += text[at] == "\n"
                word += text[at]
                at += 1
            if at == size:
                raise ConfigError(f"unexpected end of file, expecting closing quote in {path}:{begin}")
            at += 1
            if at < size and text[at] not in " \t\r\n;{})":
                raise ConfigError(f'unexpected "{text[at]}" in {path}:{line}')
            yield word, True, begin
        else:
            begin = at
            while at < size and text[at] not in " \t\r\n;{}":
                if text[at] == "\\" and at + 1 < size:
                    at += 1
                elif text[at] == "$" and text[at + 1 : at + 2] == "{":
                    end = text.find("}", at)
                    if end < 0:
                        raise ConfigError(f"the closing bracket in variable is missing in {path}:{line}")
                    at = end
                at += 1
            yield text[begin:at], False, line
