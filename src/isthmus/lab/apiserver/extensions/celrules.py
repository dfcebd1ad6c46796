"""The rules of a schema (`x-kubernetes-validations`): compiled when a definition is written, run when an object is.

A rule that refers to `oldSelf` is asked on updates only, unless it takes it as optional. Rules are asked where the
value is there; below a list they need a map list to know which item an old one was. (Reference: KEP-2876.)
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.extensions import celcheck, celtree
from isthmus.lab.apiserver.extensions.celcheck import Review
from isthmus.lab.apiserver.extensions.engine import CelError, Engine, Program
from isthmus.lab.apiserver.extensions.values import ABSENT, MAX_ERRORS, by_key, item_key, member, type_name

RULES = "x-kubernetes-validations"
REASONS = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
MAX_MESSAGE = 5 * 1024  # characters that a messageExpression may give


class Rule(msgspec.Struct, frozen=True):
    """One compiled rule; `rule` is its text."""

    rule: str
    program: Program
    message: str = ""
    expression: Program | None = None
    reason: str = "FieldValueInvalid"
    path: str = ""
    uses_old: bool = False
    fresh: Program | None = None  # of a rule with an optional oldSelf: what is asked where there is no old value


def below_of(schema: Json) -> Iterator[Json]:
    """Yields the schemas directly below one, of values (not of `anyOf` and the like)."""
    yield from schema.get("properties", {}).values()
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield schema[name]


def _wrapped(text: str) -> tuple[str, str]:
    """Returns the forms of a rule with an optional oldSelf: without an old value, and with one."""
    return f"[optional.none()].exists(oldSelf, ({text}))", f"[optional.of(oldSelf)].exists(oldSelf, ({text}))"


def compile_text(text: str, schema: Json, *, top: bool = False, optional: bool = False) -> tuple[Program, Review]:
    """Returns the program of an expression over a value of `schema`; raises CelError with all that is wrong."""
    kind = celcheck.engine_type(schema)
    source = _wrapped(text)[1] if optional else text
    program = Engine.shared().compile(source, self_type=kind, old_type=kind)
    review = Review(celtree.read(program.serialized()), schema, top=top)
    if review.findings:
        shift = source.index(text)
        raise CelError("\n".join(celcheck.shown(text, finding, shift=shift) for finding in review.findings))
    return program, review


class Rules:
    """The rules of one schema, compiled where they are first met."""

    def __init__(self, schema: Json) -> None:
        self.schema = schema
        self._compiled: dict[int, list[Rule]] = {}
        self._present: dict[int, bool] = {}

    def any(self) -> bool:
        """Tells whether there are rules at all."""
        return self._below(self.schema)

    def check(self, value: Any, *, old: Any = ABSENT, deadline: Callable[[], bool]) -> list[FieldError]:
        """Returns the rules that `value` breaks; `deadline` tells that no more may be asked."""
        found: list[FieldError] = []
        self._check(value, self.schema, "", old, found, deadline, top=True)
        return found

    def _below(self, schema: Json) -> bool:
        """Tells whether there are rules in a schema or below it."""
        key = id(schema)
        if key not in self._present:
            self._present[key] = bool(schema.get(RULES)) or any(self._below(below) for below in below_of(schema))
        return self._present[key]

    def _rules(self, schema: Json, *, top: bool) -> list[Rule]:
        key = id(schema)
        if key not in self._compiled:
            self._compiled[key] = [_compiled(rule, schema, top=top) for rule in schema.get(RULES, ())]
        return self._compiled[key]

    def _check(
        self,
        value: Any,
        schema: Json,
        path: str,
        old: Any,
        found: list[FieldError],
        deadline: Callable[[], bool],
        *,
        top: bool = False,
    ) -> None:
        if value is None or len(found) >= MAX_ERRORS or not self._below(schema):
            return
        same = old is not ABSENT and old == value
        if schema.get(RULES):
            seen = celcheck.plain(value, schema)
            before = ABSENT if old is ABSENT or old is None else celcheck.plain(old, schema)
            for rule in self._rules(schema, top=top):
                if deadline():
                    text = (
                        "validation failed due to running out of cost budget, no further validation rules will be run"
                    )
                    found.append(errors.invalid(path, type_name(value), text))
                    return
                if same and not rule.uses_old:
                    continue
                error = _ask(rule, seen, before, path or "<nil>", type_name(value))
                if error is not None:
                    found.append(error)
        if isinstance(value, dict):
            held = old if isinstance(old, dict) else {}
            for name in sorted(value):
                below = member(schema, name)
                if below:
                    where = f"{path}.{name}" if path else name
                    self._check(value[name], below, where, held.get(name, ABSENT), found, deadline)
        elif isinstance(value, list) and isinstance(schema.get("items"), dict):
            earlier = by_key(old, schema)
            for at, item in enumerate(value):
                was = earlier.get(item_key(item, schema), ABSENT)
                self._check(item, schema["items"], f"{path}[{at}]", was, found, deadline)


def _compiled(rule: Json, schema: Json, *, top: bool) -> Rule:
    text, optional = rule["rule"], bool(rule.get("optionalOldSelf"))
    program, review = compile_text(text, schema, top=top, optional=optional)
    expression = rule.get("messageExpression")
    return Rule(
        rule=text,
        program=program,
        message=rule.get("message", ""),
        expression=compile_text(expression, schema, top=top)[0] if expression else None,
        reason=rule.get("reason") or "FieldValueInvalid",
        path=rule.get("fieldPath", ""),
        uses_old=review.uses_old > optional,
        fresh=Engine.shared().compile(_wrapped(text)[0], self_type=celcheck.engine_type(schema)) if optional else None,
    )


def _ask(rule: Rule, value: Any, old: Any, path: str, kind: str) -> FieldError | None:
    data = {"self": value}
    program = rule.program
    if rule.uses_old:
        if old is not ABSENT:
            data["oldSelf"] = old
        elif rule.fresh is None:
            return None
        else:
            program = rule.fresh
    try:
        passed = program.run(data)
    except CelError as failure:
        return errors.invalid(path, kind, f"{_evaluation(str(failure))} evaluating rule: {rule.message or rule.rule}")
    if passed is True:
        return None
    return _refusal(rule, _message(rule, data), f"{path.removeprefix('<nil>')}{rule.path}".lstrip(".") or path, kind)


def _evaluation(text: str) -> str:
    """Returns an error of the engine in the words of the other engine."""
    name = text.removeprefix("Key not found in map : ")
    return text if name == text else "no such key: " + name.strip('"')


def _message(rule: Rule, data: dict[str, Any]) -> str:
    if rule.expression is not None:
        try:
            text = rule.expression.run(
                {"self": data["self"], **({"oldSelf": data["oldSelf"]} if "oldSelf" in data else {})}
            )
        except CelError:
            text = ""
        if isinstance(text, str) and text.strip() and "\n" not in text and len(text) <= MAX_MESSAGE:
            return text.strip()
    return rule.message.strip() or f"failed rule: {rule.rule.strip()}"


def _refusal(rule: Rule, message: str, path: str, kind: str) -> FieldError:
    if rule.reason == "FieldValueForbidden":
        return errors.forbidden(path, message)
    if rule.reason == "FieldValueRequired":
        return errors.required(path, message)
    if rule.reason == "FieldValueDuplicate":
        return errors.duplicate(path, kind)
    return errors.invalid(path, kind, message)
