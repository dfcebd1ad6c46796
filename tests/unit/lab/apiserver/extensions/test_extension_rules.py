"""Rules in CEL: what they can say, when they are asked, and what a hostile one can do."""

import re
from typing import Any

import pytest

from isthmus.lab.apiserver.extensions import celcheck, celtree, structural
from isthmus.lab.apiserver.extensions.celrules import Rules, compile_text
from isthmus.lab.apiserver.extensions.engine import CelError, Engine
from isthmus.lab.apiserver.extensions.structural import Structural
from isthmus.lab.apiserver.extensions.values import ABSENT
from tests.support.apihttp import Api
from tests.support.definitions import DEFINITIONS, WIDGETS, definition, version, widget

TEXT = {"type": "string", "maxLength": 40}
ANY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "d": {"type": "number"},
        "s": TEXT,
        "words": {"type": "array", "maxItems": 20, "items": TEXT},
        "numbers": {"type": "array", "maxItems": 20, "items": {"type": "integer"}},
        "map": {"type": "object", "maxProperties": 5, "additionalProperties": TEXT},
        "port": {"x-kubernetes-int-or-string": True},
        "x-dash": TEXT,
        "namespace": TEXT,
    },
}


def ask(rule: str, value: Any, old: Any = ABSENT, **fields: Any) -> list[str]:
    schema = {**ANY, "x-kubernetes-validations": [{"rule": rule, **fields}]}
    return [str(error) for error in Rules(schema).check(value, old=old, deadline=lambda: False)]


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("self.n + 1 == 3", {"n": 2}),
        ("self.d == 2.0", {"d": 2}),
        ("!has(self.s) && has(self.n)", {"n": 1}),
        ("self.words.all(w, w.startsWith('a')) && self.words.exists_one(w, w == 'ab')", {"words": ["ab", "ac"]}),
        ("self.words.map(w, size(w)).sum() == 3 && self.words.filter(w, w > 'b').size() == 1", {"words": ["a", "bc"]}),
        ("self.numbers.isSorted() && self.numbers.max() == 3 && self.numbers.indexOf(2) == 1", {"numbers": [1, 2, 3]}),
        ("self.map.all(k, k != self.map[k]) && 'a' in self.map", {"map": {"a": "b"}}),
        ("type(self.port) == int ? self.port > 0 : self.port.endsWith('%')", {"port": "5%"}),
        ("self.x__dash__dash == 'v' && self.__namespace__ == 'n'", {"x-dash": "v", "namespace": "n"}),
        (
            "isCIDR(self.s) && cidr(self.s).prefixLength() == 8 && cidr(self.s).containsIP('10.1.2.3')",
            {"s": "10.0.0.0/8"},
        ),
        ("isIP(self.s) && ip(self.s).family() == 6 && ip(self.s).isLoopback() && ip.isCanonical(self.s)", {"s": "::1"}),
        ("cidr('10.0.0.0/8').containsCIDR(self.s) && cidr(self.s).ip() == ip('10.1.0.0')", {"s": "10.1.0.0/16"}),
        ("!isCIDR(self.s) && !isIP(self.s) && !isURL(self.s)", {"s": "nothing"}),
        ("url(self.s).getHost() == 'a.example:80' && url(self.s).getPort() == '80'", {"s": "http://a.example:80/x"}),
        ("quantity(self.s).isGreaterThan(quantity('1Gi')) && quantity(self.s).asInteger() > 0", {"s": "2Gi"}),
        (
            "self.s.split(',').join('-') == 'a-b' && self.s.indexOf(',') == 1 && self.s.substring(2) == 'b'",
            {"s": "a,b"},
        ),
        ("self.s.upperAscii() == 'AÉ'.replace('É', 'é') && self.s.trim().charAt(0) == 'a'", {"s": "aé"}),
        ("'%s has %d'.format([self.s, self.n]) == 'x has 3'", {"s": "x", "n": 3}),
        ("self.s.matches('^[a-z]+$')", {"s": "abc"}),
        ("self.?s.orValue('none') == 'none'", {}),
        ("sets.contains(self.words, ['a']) && !sets.intersects(self.words, ['z'])", {"words": ["a", "b"]}),
        ("duration('1h') > duration('59m')", {}),
        ("timestamp(self.s) > timestamp('2020-01-01T00:00:00Z')", {"s": "2021-01-01T00:00:00Z"}),
        ("math.greatest(self.n, 3) == 5", {"n": 5}),
    ],
)
def test_a_rule_that_holds_says_nothing(rule: str, value: Any) -> None:
    assert ask(rule, value) == []


def test_a_broken_rule_is_told_as_its_author_wished() -> None:
    assert ask("self.n > 1", {"n": 1}) == ['<nil>: Invalid value: "object": failed rule: self.n > 1']
    assert ask("self.n > 1", {"n": 1}, message="too few") == ['<nil>: Invalid value: "object": too few']
    told = ask("self.n > 1", {"n": 1}, messageExpression="'not ' + string(self.n)", fieldPath=".n")
    assert told == ['n: Invalid value: "object": not 1']
    assert ask("self.n > 1", {"n": 1}, reason="FieldValueForbidden", message="no") == ["<nil>: Forbidden: no"]
    assert ask("self.n > 1", {}) == ['<nil>: Invalid value: "object": no such key: n evaluating rule: self.n > 1']


def test_a_rule_that_compares_is_asked_on_updates_only() -> None:
    rule = "self.n >= oldSelf.n"
    assert ask(rule, {"n": 1}) == []
    assert ask(rule, {"n": 2}, {"n": 1}) == []
    assert ask(rule, {"n": 1}, {"n": 2}) != []


def test_a_rule_with_an_optional_old_value_is_asked_always() -> None:
    rule = "oldSelf.hasValue() ? self.n > oldSelf.value().n : self.n == 1"
    assert ask(rule, {"n": 1}, optionalOldSelf=True) == []
    assert ask(rule, {"n": 2}, optionalOldSelf=True) != []
    assert ask(rule, {"n": 2}, {"n": 1}, optionalOldSelf=True) == []
    assert ask(rule, {"n": 2}, {"n": 3}, optionalOldSelf=True) != []


def test_what_did_not_change_is_not_asked_again() -> None:
    assert ask("self.n > 5", {"n": 1}, {"n": 1}) == []
    assert ask("self.n > 5", {"n": 2}, {"n": 1}) != []


def test_no_rule_is_asked_after_the_time_is_up() -> None:
    schema = {**ANY, "x-kubernetes-validations": [{"rule": "true"}]}
    found = Rules(schema).check({}, deadline=lambda: True)
    assert "running out of cost budget" in str(found[0])


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("self.nope", "undefined field 'nope'"),
        ("self.words.all(w, w.x == 1)", "type 'string' does not support field selection"),
        ("self.s > timestamp('2020-01-01T00:00:00Z')", "applied to '(string, timestamp)'"),
        ("self.s == null", "applied to '(string, null)'"),
        ("self.d == 1", "applied to '(double, int)'"),
        ("self.s ? true : false", "applied to '(string, bool, bool)'"),
        ("self.n == 's'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.n +", "Syntax error"),
        ("a" * 20_000, "longer than"),
        ("(" * 400 + "1" + ")" * 400, "recursion"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_its_place(rule: str, told: str) -> None:
    with pytest.raises(CelError, match=re.escape(told)):
        compile_text(rule, ANY)


def cost_of(rule: str, schema: dict[str, Any]) -> list[str]:
    whole = {"type": "object", "properties": {"spec": {**schema, "x-kubernetes-validations": [{"rule": rule}]}}}
    return [error.message for error in Structural("root").review(whole)]


def test_loops_in_loops_over_lists_without_end_are_refused() -> None:
    endless = {"type": "array", "items": {"type": "string"}}
    assert any("exceeds budget" in text for text in cost_of("self.all(a, self.all(b, a == b))", endless))
    bounded = {"type": "array", "maxItems": 20, "items": TEXT}
    assert cost_of("self.all(a, self.all(b, a == b))", bounded) == []
    doubled = {"type": "array", "items": {"type": "string"}, "maxItems": 100_000}
    assert any("exceeds budget" in text for text in cost_of("self.map(a, a + a).size() > 0", doubled))


def test_a_schema_cannot_have_any_number_of_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structural, "MAX_RULES", 3)
    rules = [{"rule": "true"}] * 5
    found = structural.Structural("root").review({"type": "object", "x-kubernetes-validations": rules})
    assert [str(error) for error in found] == ["root: Forbidden: must not have more than 3 x-kubernetes-validations"]


def test_values_that_would_grow_without_end_are_refused() -> None:
    doubling = "[self]" + ".map(a, a + a)" * 20 + ".size() > 0"
    assert any("exceeds budget" in text for text in cost_of(doubling, TEXT)), cost_of(doubling, TEXT)
    replacing = "self" + ".replace('a', 'aaaaaaaaaa')" * 12 + " != ''"
    assert any("exceeds budget" in text for text in cost_of(replacing, TEXT))
    assert cost_of("self.replace('a', 'bb').split(',').all(x, x.size() < 9)", TEXT) == []


def test_the_engine_gives_up_on_loops_that_are_too_long() -> None:
    program = Engine.shared().compile("self.all(a, self.all(b, self.all(c, a + b + c >= 0)))", self_type="list(int)")
    with pytest.raises(CelError, match="budget"):
        program.run({"self": list(range(100))})


def test_patterns_are_linear_and_those_of_re2() -> None:
    engine = Engine.shared()
    assert engine.matches("a" * 100_000 + "b", "^(a*)*b$")
    assert not engine.matches("a" * 100_000, "^(a*)*b$")
    assert engine.pattern_error("(?=a)") and engine.pattern_error("([") and engine.pattern_error("a" * 9000)
    assert engine.pattern_error(r"^\PC*$") == ""


def test_a_tree_has_the_places_of_its_nodes() -> None:
    program = Engine.shared().compile("self.a && self.b.all(x, x > 1)", self_type="map(dyn)")
    nodes = list(celtree.walk(celtree.read(program.serialized())))
    assert {(node.name, node.place) for node in nodes if node.kind == "select"} == {("a", 4), ("b", 14)}
    assert celcheck.unescaped("x__dash__y__dot__z") == "x-y.z" and celcheck.escaped("x-y.z") == "x__dash__y__dot__z"


async def test_rules_of_map_lists_compare_items_by_their_keys(api: Api) -> None:
    made = version()
    parts = made["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["parts"]
    parts["maxItems"] = 10
    parts["items"]["x-kubernetes-validations"] = [
        {"rule": "self.count >= oldSelf.count", "message": "a count only grows"}
    ]
    await api.create(DEFINITIONS, definition(made))
    await api.create(WIDGETS, widget("a", parts=[{"name": "x", "count": 1}, {"name": "y", "count": 5}]))
    patch = {"spec": {"parts": [{"name": "y", "count": 6}, {"name": "x", "count": 1}, {"name": "z", "count": 0}]}}
    code, body = await api.patch(f"{WIDGETS}/a", patch)
    assert code == 200, body
    code, body = await api.patch(f"{WIDGETS}/a", {"spec": {"parts": [{"name": "y", "count": 5}]}})
    assert code == 422
    assert body["details"]["causes"] == [
        {
            "reason": "FieldValueInvalid",
            "message": 'Invalid value: "object": a count only grows',
            "field": "spec.parts[0]",
        }
    ]
