"""The CEL engine: one for the process, loaded when the first rule or pattern is met.

It is Google's C++ implementation. That gives type checking, linear-time regular expressions (RE2) and a bound on
iterations; the alternatives were larger in memory (a Rust binding whose package loads a command line and pydantic; a
Python implementation with a parser generator) or had wheels for too few systems. Extension modules cost megabytes
each, so they are loaded for expressions that name something of theirs only.
"""

import functools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cel_expr_python import cel

MAX_EXPRESSION = 16 * 1024  # characters
MAX_PATTERN = 8 * 1024  # characters

_OPTIONALS = re.compile(r"\boptional\b|\bopt(Flat)?Map\b|hasValue|orValue|\.\?|\[\?")
_MATH = re.compile(r"\bmath\.")
_STATUS = re.compile(r"^[A-Z_]+: (.*?)(?: \[[A-Z_]+\])?$", re.DOTALL)


class CelError(Exception):
    """An expression does not compile, or its evaluation failed."""


def _told(failure: object) -> str:
    """Returns an engine's message without the name of its status."""
    text = str(failure)
    found = _STATUS.match(text)
    return found[1] if found else text


class Program:
    """A compiled expression."""

    def __init__(self, expression: "cel.Expression", failed: "cel.Type") -> None:
        self._expression = expression
        self._failed = failed

    def serialized(self) -> bytes:
        """Returns the checked tree; see `celtree`."""
        found: bytes = self._expression.serialize()
        return found

    def result(self) -> str:
        """Returns the name of the type that the expression gives, e.g. BOOL or DYN."""
        return str(self._expression.return_type().name())

    def run(self, data: dict[str, Any]) -> Any:
        """Returns the plain value of the expression; raises CelError."""
        try:
            value = self._expression.eval(data=data)
        except (RuntimeError, TypeError, ValueError, OverflowError) as failure:
            raise CelError(_told(failure)) from failure
        if value.type() == self._failed:
            raise CelError(_told(value.value()))
        return value.plain_value()


class Engine:
    """Compiles expressions. Use `shared()`."""

    def __init__(self) -> None:
        from cel_expr_python import cel

        from isthmus.lab.apiserver.extensions import cellibrary

        self._cel = cel
        self._functions = cellibrary.functions()
        self._plain = cel.NewEnv(variables={"text": cel.Type.STRING, "pattern": cel.Type.STRING})
        self._matches = Program(self._plain.compile("text.matches(pattern)"), cel.Type.ERROR)
        self._environments: dict[tuple[str, str, str], Any] = {}

    @classmethod
    @functools.cache
    def shared(cls) -> "Engine":
        """Returns the engine of the process."""
        return cls()

    def matches(self, text: str, pattern: str) -> bool:
        """Tells whether RE2 `pattern` is found in `text`; False for a pattern that is none."""
        try:
            return bool(self._matches.run({"text": text, "pattern": pattern}))
        except CelError:
            return False

    def pattern_error(self, pattern: str) -> str:
        """Returns what is wrong with a pattern, "" if nothing is."""
        if len(pattern) > MAX_PATTERN:
            return f"it is longer than {MAX_PATTERN} characters"
        try:
            self._matches.run({"text": "", "pattern": pattern})
        except CelError as failure:
            return str(failure).removeprefix("invalid regular expression: ")
        return ""

    def compile(self, expression: str, *, self_type: str, old_type: str = "") -> Program:
        """Returns a program over `self` (and `oldSelf`); types are written as by `cel.Type`, e.g. `map(string, dyn)`.

        Raises CelError with the engine's report, which shows the place.
        """
        if len(expression) > MAX_EXPRESSION:
            raise CelError(f"ERROR: <input>:1:1: expression is longer than {MAX_EXPRESSION} characters")
        environment = self._environment(expression, self_type, old_type)
        try:
            compiled = environment.compile(expression)
        except (RuntimeError, UnicodeError) as failure:
            raise CelError(_told(failure)) from failure
        return Program(compiled, self._cel.Type.ERROR)

    def _environment(self, expression: str, self_type: str, old_type: str) -> Any:
        wanted = "".join(letter for letter, found in (("o", _OPTIONALS), ("m", _MATH)) if found.search(expression))
        key = (wanted, self_type, old_type)
        if key not in self._environments:
            variables = {"self": self._type(self_type)}
            if old_type:
                variables["oldSelf"] = self._type(old_type)
            self._environments[key] = self._cel.NewEnv(
                variables=variables, functions=self._functions, extensions=_extensions(wanted)
            )
        return self._environments[key]

    def _type(self, text: str) -> Any:
        """Returns the type that `text` names: a scalar, `list(T)` or `map(T)` from string."""
        kind = self._cel.Type
        if text.startswith("list("):
            return kind.List(self._type(text[5:-1]))
        if text.startswith("map("):
            return kind.Map(kind.STRING, self._type(text[4:-1]))
        return getattr(kind, text.upper())


def _extensions(wanted: str) -> list[Any]:
    found: list[Any] = []
    if "o" in wanted:
        from cel_expr_python.ext.ext_optional import ExtOptional

        found.append(ExtOptional())
    if "m" in wanted:
        from cel_expr_python.ext.ext_math import ExtMath

        found.append(ExtMath())
    return found
