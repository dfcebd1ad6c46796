"""Applies a Delta to a Table as the kernel would, refusing what the kernel refuses."""

from isthmus.ruleset.rules import ByState, Chain, Forget, GoBy, GoTo, JumpTo, KeepFrom, Lookup, Remember, Translate
from isthmus.ruleset.sets import Jump
from isthmus.ruleset.table import Delta, Table


def apply(table: Table, delta: Delta) -> None:
    """Raises AssertionError where the kernel would refuse a transaction, or one leads where a packet would be lost."""
    for step in delta.steps:
        _apply(table, step)


def _apply(table: Table, delta: Delta) -> None:
    unfilled = {chain.name for chain in delta.new_chains}
    for change in delta.changes:
        if change.spec not in delta.new_sets:
            early = [value for _, value in change.add if isinstance(value, Jump) and value.chain in unfilled]
            assert not early, f"{change.spec.name} leads to {early} before there is anything in it"
    for spec in delta.new_sets:
        assert spec.name not in table.sets, f"{spec.name}: File exists"
        table.add_set(spec)
    for change in delta.changes:
        content = table.elements[change.spec.name]
        for key in change.remove:
            assert key in content, f"{change.spec.name} {key}: No such file or directory"
            table.discard(change.spec.name, key)
    for chain in delta.new_chains:
        assert chain.name not in table.chains, f"{chain.name}: File exists"
        table.put_chain(chain)
    for chain in delta.changed_chains:
        assert chain.name in table.chains, f"{chain.name}: No such file or directory"
        table.put_chain(chain)
    for change in delta.changes:
        for key, value in change.add:
            assert key not in table.elements[change.spec.name], f"{change.spec.name} {key}: File exists"
            table.put(change.spec.name, key, value)
    for name in delta.dead_chains:
        table.drop_chain(name)
    for name in delta.dead_sets:
        table.drop_set(name)
    _check_references(table)


def _check_references(table: Table) -> None:
    for chain in table.chains.values():
        for used in _uses(chain):
            assert used in table.sets or used in table.chains, f"{chain.name} uses {used}: Device or resource busy"
    for name, content in table.elements.items():
        for value in content.values():
            if isinstance(value, Jump):
                assert value.chain in table.chains, f"{name} leads to {value.chain}: Device or resource busy"


def _uses(chain: Chain) -> list[str]:
    used: list[str] = []
    for rule in chain.rules:
        for statement in rule.statements:
            match statement:
                case Lookup(_, name, _) | GoBy(_, name) | KeepFrom(_, name) | Forget(_, name):
                    used.append(name)
                case Translate(_, _, name) | Remember(_, name, _):
                    used.append(name)
                case JumpTo(name) | GoTo(name):
                    used.append(name)
                case ByState(unjudgeable, new):
                    used += filter(None, (unjudgeable, new))
    return used
