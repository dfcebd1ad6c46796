"""Whether the schema of a definition is structural, and may be served: the rules of apiextensions.k8s.io/v1.

Paths and texts are the real server's, whose paths name a property as `properties[name]`. Everything wrong with a
schema is told at once, but compiled rules only where the schema is otherwise sound, because they follow its types.
(Reference: apiextensions `pkg/apis/apiextensions/validation`, `pkg/apiserver/schema`.)
"""

from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.extensions import celcheck, formats, pruning, values
from isthmus.lab.apiserver.extensions.celrules import REASONS, RULES, compile_text
from isthmus.lab.apiserver.extensions.engine import CelError
from isthmus.lab.apiserver.extensions.pruning import EMBEDDED, PRESERVE
from isthmus.lab.apiserver.extensions.values import INT_OR_STRING, go_syntax

MAX_DEPTH = 100  # of schemas in each other
MAX_RULES = 1000  # of one schema; compiling takes about half a millisecond each, and nothing else can be done meanwhile
TYPES = ("array", "boolean", "integer", "number", "object", "string")
LIST_TYPE, LIST_KEYS, MAP_TYPE = "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_NOT_IN_JUNCTORS = (
    ("additionalProperties", "undefined"),
    ("default", "undefined"),
    ("description", "empty"),
    ("nullable", "false"),
    ("title", "empty"),
    ("type", "empty"),
    (PRESERVE, "false"),
    (EMBEDDED, "false"),
    (INT_OR_STRING, "false"),
)
_COST_TEXT = (
    "exceeds budget by factor of {} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where "
    "arrays, maps, and strings are declared)"
)


def _strings(words: list[str]) -> str:
    return f"[]string{{{', '.join(msgspec.json.encode(word).decode() for word in words)}}}"


def _raw(path: str, shown: str, detail: str) -> FieldError:
    return FieldError("FieldValueInvalid", path, f"Invalid value: {shown}: {detail}")


class Structural:
    """One schema under review; `found` is what is wrong with it, `cost` what all its rules may cost."""

    def __init__(self, root: str) -> None:
        self.found: list[FieldError] = []
        self.root = root
        self.cost = 0
        self._count_of_rules = 0
        self._costly: list[FieldError] = []

    def review(self, schema: Json) -> list[FieldError]:
        """Returns what is wrong."""
        if not schema.get("type"):
            self.found.append(errors.required(f"{self.root}.type", "must not be empty at the root"))
        elif schema["type"] != "object":
            self.found.append(errors.invalid(f"{self.root}.type", schema["type"], "must be object at the root"))
        if self.found:
            return self.found
        self._schema(schema, self.root, depth=0, where="root")
        if not self.found:
            self._rules(schema, self.root, times=1, correlatable="", top=True)
        if self.cost > celcheck.MAX_TOTAL_COST:
            self.found += self._costly
            text = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema "
            text += _COST_TEXT.format(_factor(self.cost, celcheck.MAX_TOTAL_COST))
            self.found.append(errors.forbidden(self.root, text))
        return self.found

    def _say(self, error: FieldError) -> None:
        if len(self.found) < values.MAX_ERRORS:
            self.found.append(error)

    def _schema(self, schema: Any, path: str, *, depth: int, where: str) -> None:
        """Reviews one schema; `where` is root, properties, items or additional: how it stands in its parent."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            self._say(errors.invalid(path, "", "must be a schema, not nested too deep"))
            return
        self._type(schema, path, where)
        self._forbidden(schema, path)
        self._lists(schema, path)
        self._embedded(schema, path, where)
        self._strings_and_defaults(schema, path, where)
        for name in _JUNCTORS:
            for at, below in enumerate(schema.get(name) or ()):
                if not (schema.get(INT_OR_STRING) and _is_spelled(name, schema)):
                    self._junctor(below, f"{path}.{name}[{at}]", depth + 1)
        if schema.get("not") is not None:
            self._junctor(schema["not"], f"{path}.not", depth + 1)
        for name, below in sorted((schema.get("properties") or {}).items()):
            self._schema(below, f"{path}.properties[{name}]", depth=depth + 1, where="properties")
        if isinstance(schema.get("items"), dict):
            self._schema(schema["items"], f"{path}.items", depth=depth + 1, where="items")
        other = schema.get("additionalProperties")
        if isinstance(other, dict):
            self._schema(other, f"{path}.additionalProperties", depth=depth + 1, where="additional")
        if where == "root":
            self._metadata(schema, path)

    def _type(self, schema: Json, path: str, where: str) -> None:
        kind = schema.get("type") or ""
        if not kind:
            if not schema.get(INT_OR_STRING) and not schema.get(PRESERVE) and not schema.get("$ref"):
                text = (
                    "must not be empty for specified array items"
                    if where == "items"
                    else ("must not be empty for specified object fields")
                )
                self._say(errors.required(f"{path}.type", text))
        elif kind not in TYPES:
            self._say(values.unsupported(f"{path}.type", kind, list(TYPES)))
            if kind == "null":
                self._say(
                    errors.forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
                )
        elif kind == "array" and schema.get("items") is None:
            self._say(errors.required(f"{path}.items", "must be specified"))
        if isinstance(schema.get("items"), list):
            self._say(errors.forbidden(f"{path}.items", "items must be a schema object and not an array"))

    def _forbidden(self, schema: Json, path: str) -> None:
        if schema.get("properties") and schema.get("additionalProperties") not in (None, False):
            text = "additionalProperties and properties are mutual exclusive"
            self._say(errors.forbidden(f"{path}.additionalProperties", text))
        if schema.get("uniqueItems"):
            text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            self._say(errors.forbidden(f"{path}.uniqueItems", text))
        if schema.get("$ref"):
            self._say(errors.forbidden(f"{path}.$ref", "$ref is not supported"))
        for name in ("definitions", "dependencies", "patternProperties", "additionalItems"):
            if schema.get(name):
                self._say(errors.forbidden(f"{path}.{name}", f"{name} is not supported"))
        if schema.get(PRESERVE) is False:
            self._say(errors.invalid(f"{path}.{PRESERVE}", False, "must be true or undefined"))

    def _lists(self, schema: Json, path: str) -> None:
        kind, listed, keys = schema.get("type"), schema.get(LIST_TYPE), schema.get(LIST_KEYS) or []
        if listed is not None and kind != "array":
            shown = kind or "null"
            text = f"must be array if {LIST_TYPE} is specified"
            self._say(errors.invalid(f"{path}.type", shown, text))
        if listed is not None and listed not in ("atomic", "set", "map"):
            self._say(values.unsupported(f"{path}.{LIST_TYPE}", listed, ["atomic", "set", "map"]))
        if keys and listed != "map":
            text = f"must be map if {LIST_KEYS} is non-empty"
            self._say(
                errors.required(f"{path}.{LIST_TYPE}", text)
                if listed is None
                else errors.invalid(f"{path}.{LIST_TYPE}", listed, text)
            )
        items = schema.get("items")
        if listed == "map" and isinstance(items, dict):
            self._map_list(items, keys, path)
        if listed == "set" and isinstance(items, dict):
            self._set(items, path)
        mapped = schema.get(MAP_TYPE)
        if mapped is not None:
            if kind != "object":
                self._say(errors.invalid(f"{path}.type", kind or "null", f"must be object if {MAP_TYPE} is specified"))
            if mapped not in ("atomic", "granular"):
                self._say(values.unsupported(f"{path}.{MAP_TYPE}", mapped, ["atomic", "granular"]))

    def _set(self, items: Json, path: str) -> None:
        if items.get("type") == "array" and items.get(LIST_TYPE) not in (None, "atomic"):
            text = f"must be atomic as item of a list with {LIST_TYPE}=set"
            self._say(errors.invalid(f"{path}.items.{LIST_TYPE}", items[LIST_TYPE], text))
        if items.get("type") == "object" and items.get(MAP_TYPE) != "atomic":
            text = f"must be atomic as item of a list with {LIST_TYPE}=set"
            self._say(errors.invalid(f"{path}.items.{MAP_TYPE}", items.get(MAP_TYPE) or "null", text))
        if items.get("nullable"):
            self._say(errors.forbidden(f"{path}.items.nullable", f"cannot be nullable when {LIST_TYPE} is set"))

    def _map_list(self, items: Json, keys: list[str], path: str) -> None:
        if items.get("type") != "object":
            text = f"must be object if parent array's {LIST_TYPE} is map"
            self._say(errors.invalid(f"{path}.items.type", items.get("type") or "null", text))
        if not keys:
            self._say(errors.required(f"{path}.{LIST_KEYS}", f"must not be empty if {LIST_TYPE} is map"))
            return
        if items.get("nullable"):
            self._say(errors.forbidden(f"{path}.items.nullable", f"cannot be nullable when {LIST_TYPE} is map"))
        held = items.get("properties") or {}
        if any(key not in held for key in keys) and items.get("type") == "object":
            text = "entries must all be names of item properties"
            self._say(_raw(f"{path}.{LIST_KEYS}", _strings(keys), text))
        if len(set(keys)) < len(keys):
            self._say(_raw(f"{path}.{LIST_KEYS}", _strings(keys), "must not contain duplicate entries"))
        for key in dict.fromkeys(keys):
            below = held.get(key)
            if not isinstance(below, dict):
                continue
            where = f"{path}.items.properties[{key}]"
            if below.get("type") in ("object", "array"):
                text = f"must be a scalar type if parent array's {LIST_TYPE} is map"
                self._say(errors.invalid(f"{where}.type", below["type"], text))
            elif key not in (items.get("required") or ()) and below.get("default") is None:
                text = f"this property is in {LIST_KEYS}, so it must have a default or be a required property"
                self._say(errors.required(f"{where}.default", text))
            if below.get("nullable"):
                text = f"this property is in {LIST_KEYS}, so it cannot be nullable"
                self._say(errors.forbidden(f"{where}.nullable", text))

    def _embedded(self, schema: Json, path: str, where: str) -> None:
        if schema.get(EMBEDDED):
            if where == "root":
                self._say(errors.forbidden(f"{path}.{EMBEDDED}", "must not be used at the root"))
            if not schema.get("properties") and not schema.get(PRESERVE):
                text = f"must not be empty if {EMBEDDED} is true without {PRESERVE}"
                self._say(errors.required(f"{path}.properties", text))
            if schema.get("type") != "object":
                text = f"must be object if {EMBEDDED} is true"
                self._say(
                    errors.invalid(f"{path}.type", schema["type"], text)
                    if schema.get("type")
                    else errors.required(f"{path}.type", text)
                )
            self._metadata(schema, path)

    def _metadata(self, schema: Json, path: str) -> None:
        metadata = (schema.get("properties") or {}).get("metadata")
        if isinstance(metadata, dict):
            held = {name for name in metadata.get("properties") or {} if name not in ("name", "generateName")}
            if held or metadata.get("additionalProperties") or metadata.get("required"):
                text = (
                    "must not specify anything other than name and generateName, but metadata is implicitly specified"
                )
                self._say(errors.forbidden(f"{path}.properties[metadata]", text))

    def _strings_and_defaults(self, schema: Json, path: str, where: str) -> None:
        pattern = schema.get("pattern")
        if pattern:
            wrong = formats.pattern_error(pattern)
            if wrong:
                text = f"must be a valid regular expression, but isn't: error parsing regexp: {wrong}"
                self._say(errors.invalid(f"{path}.pattern", pattern, text))
        default = schema.get("default")
        if default is None:
            return
        if where == "root":
            self._say(errors.forbidden(f"{path}.default", "must not be set at the root"))
            return
        if pruning.unknown_in(default, schema):
            self._say(_raw(f"{path}.default", go_syntax(default), "must not have unknown fields"))
            return
        filled = msgspec.json.decode(msgspec.json.encode(default))
        pruning.fill(filled, schema)
        for bad in [*values.check(filled, schema), *values.check_lists(filled, schema)]:
            self._say(FieldError(bad.reason, f"{path}.default{_below(bad.path)}", bad.message))

    def _junctor(self, schema: Any, path: str, depth: int) -> None:
        """Reviews what stands in allOf, anyOf, oneOf or not: constraints on values, no structure."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            self._say(errors.invalid(path, "", "must be a schema, not nested too deep"))
            return
        for name, wanted in _NOT_IN_JUNCTORS:
            if schema.get(name) not in (None, False, ""):
                self._say(errors.forbidden(f"{path}.{name}", f"must be {wanted} to be structural"))
        if schema.get(RULES):
            self._say(errors.forbidden(f"{path}.{RULES}", "must be empty to be structural"))
        self._forbidden({name: schema[name] for name in schema if name in ("uniqueItems", "$ref")}, path)
        if schema.get("pattern"):
            self._strings_and_defaults({"pattern": schema["pattern"]}, path, "junctor")
        for name in _JUNCTORS:
            for at, below in enumerate(schema.get(name) or ()):
                self._junctor(below, f"{path}.{name}[{at}]", depth + 1)
        if schema.get("not") is not None:
            self._junctor(schema["not"], f"{path}.not", depth + 1)
        for name, below in sorted((schema.get("properties") or {}).items()):
            self._junctor(below, f"{path}.properties[{name}]", depth + 1)
        if isinstance(schema.get("items"), dict):
            self._junctor(schema["items"], f"{path}.items", depth + 1)

    def _rules(self, schema: Json, path: str, *, times: int | None, correlatable: str, top: bool = False) -> None:
        """Compiles the rules of a schema that is sound.

        `times` is how often a value of it can be in an object, None where only the size of a request bounds that;
        `correlatable` is the path from which old values are lost.
        """
        for at, rule in enumerate(schema.get(RULES) or ()):
            often = celcheck.MAX_REQUEST // (celcheck.least_bytes(schema) + 1) if times is None else times
            self._rule(rule, schema, f"{path}.{RULES}[{at}]", times=often, correlatable=correlatable, top=top)
        for name, below in sorted((schema.get("properties") or {}).items()):
            self._rules(below, f"{path}.properties[{name}]", times=times, correlatable=correlatable)
        items, other = schema.get("items"), schema.get("additionalProperties")
        if isinstance(items, dict):
            lost = correlatable or ("" if schema.get(LIST_TYPE) == "map" else path)
            self._rules(items, f"{path}.items", times=_times(times, schema, "maxItems"), correlatable=lost)
        if isinstance(other, dict):
            inner = _times(times, schema, "maxProperties")
            self._rules(other, f"{path}.additionalProperties", times=inner, correlatable=correlatable)

    def _rule(self, rule: Json, schema: Json, path: str, *, times: int, correlatable: str, top: bool) -> None:
        text = rule.get("rule") or ""
        self._count_of_rules += 1
        if self._count_of_rules > MAX_RULES:
            if self._count_of_rules == MAX_RULES + 1:
                self._say(errors.forbidden(self.root, f"must not have more than {MAX_RULES} x-kubernetes-validations"))
            return
        if not text.strip():
            self._say(errors.required(f"{path}.rule", "rule is not specified"))
            return
        message, reason, where = rule.get("message"), rule.get("reason"), rule.get("fieldPath")
        if message is not None and "message" in rule:
            if not message.strip() and message:
                self._say(errors.invalid(f"{path}.message", message, "message must be non-empty if specified"))
            elif "\n" in message.strip():
                self._say(errors.invalid(f"{path}.message", message, "message must not contain line breaks"))
        if "\n" in text.strip() and not message and not rule.get("messageExpression"):
            self._say(errors.required(f"{path}.message", "message must be specified if rule contains line breaks"))
            return
        if reason is not None and reason not in REASONS:
            self._say(values.unsupported(f"{path}.reason", reason, list(REASONS)))
        if where and not _has_path(schema, where):
            self._say(errors.invalid(f"{path}.fieldPath", where, "fieldPath must be a valid path"))
        self._compile(rule, schema, path, times=times, correlatable=correlatable, top=top)

    def _compile(self, rule: Json, schema: Json, path: str, *, times: int, correlatable: str, top: bool) -> None:
        optional = bool(rule.get("optionalOldSelf"))
        try:
            program, review = compile_text(rule["rule"], schema, top=top, optional=optional)
        except CelError as failure:
            self._say(_raw(f"{path}.rule", _shown_rule(rule), f"compilation failed: {failure}"))
            return
        gives = review.gives.get("type", "boolean")
        if program.result() not in ("BOOL", "DYN") or gives != "boolean":
            self._say(_raw(f"{path}.rule", _shown_rule(rule), "cel expression must evaluate to a bool"))
            return
        uses_old = review.uses_old > optional
        if optional and not uses_old:
            self._say(errors.invalid(f"{path}.optionalOldSelf", True, "may not be set if oldSelf is not used in rule"))
        if uses_old and correlatable:
            text = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {correlatable}"
            self._say(errors.invalid(f"{path}.rule", rule["rule"], text))
        self._count(review.cost * times, f"{path}.rule", "estimated rule cost ")
        if rule.get("messageExpression"):
            self._message(rule, schema, path, times=times, top=top)

    def _message(self, rule: Json, schema: Json, path: str, *, times: int, top: bool) -> None:
        where = f"{path}.messageExpression"
        try:
            program, review = compile_text(rule["messageExpression"], schema, top=top)
        except CelError as failure:
            self._say(_raw(where, _shown_rule(rule), f"messageExpression compilation failed: {failure}"))
            return
        if program.result() not in ("STRING", "DYN") or review.gives.get("type", "string") != "string":
            self._say(_raw(where, _shown_rule(rule), "messageExpression must evaluate to a string"))
        self._count(review.cost * times, where, "estimated messageExpression cost ")

    def _count(self, cost: int, path: str, what: str) -> None:
        self.cost += cost
        if cost > celcheck.MAX_COST:
            self._say(errors.forbidden(path, what + _COST_TEXT.format(_factor(cost, celcheck.MAX_COST))))
        if cost > celcheck.MAX_TOTAL_COST // 100:
            text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            self._costly.append(errors.forbidden(path, text))


def _is_spelled(name: str, schema: Json) -> bool:
    """Tells whether a junctor only says again that a value is an integer or a string."""
    words = [{"type": "integer"}, {"type": "string"}]
    held = schema[name]
    return (name == "anyOf" and held == words) or (name == "allOf" and held[0].get("anyOf") == words)


def _times(times: int | None, schema: Json, bound: str) -> int | None:
    most = schema.get(bound)
    return None if times is None or most is None else times * int(most)


def _factor(cost: int, limit: int) -> str:
    return "more than 100x" if cost > 100 * limit else f"{cost / limit:.1f}x"


def _below(path: str) -> str:
    return f".{path}" if path and not path.startswith("[") else path


def _has_path(schema: Json, path: str) -> bool:
    """Tells whether a rule's fieldPath, such as `.spec.x`, leads to a field of the schema."""
    if not path.startswith(".") or len(path) < 2:
        return False
    held: Any = schema
    for name in path[1:].replace("['", ".").replace("']", "").split("."):
        if not isinstance(held, dict):
            return False
        held = (held.get("properties") or {}).get(name) or held.get("additionalProperties")
    return isinstance(held, dict)


def _shown_rule(rule: Json) -> str:
    """Returns a rule as Go prints its struct."""

    def text(name: str) -> str:
        return msgspec.json.encode(rule.get(name) or "").decode()

    def pointer(name: str, kind: str) -> str:
        return f"(*{kind})(nil)" if rule.get(name) is None else f"(*{kind})(0x0)"

    return (
        f"apiextensions.ValidationRule{{Rule:{text('rule')}, Message:{text('message')}, "
        f"MessageExpression:{text('messageExpression')}, "
        f"Reason:{pointer('reason', 'apiextensions.FieldValueErrorReason')}, FieldPath:{text('fieldPath')}, "
        f"OptionalOldSelf:{pointer('optionalOldSelf', 'bool')}}}"
    )
