"""Which of a definition's names are free: the conditions NamesAccepted and Established.

Names are the property of one definition within a group: whoever had one first keeps it. Until all names of a
definition are accepted it is not served, except under the names that it was served under before.
"""

from collections.abc import Iterable

from isthmus.lab.apiserver.errors import Json

_SINGLE = (("plural", "PluralConflict"), ("singular", "SingularConflict"))
_KINDS = (("kind", "KindConflict"), ("listKind", "ListKindConflict"))


def condition(value: Json, kind: str) -> Json:
    """Returns a condition of a definition, {} if it has none of that type."""
    conditions = value.get("status", {}).get("conditions") or ()
    return next((held for held in conditions if held["type"] == kind), {})


def is_true(value: Json, kind: str) -> bool:
    """Tells whether a condition of a definition is True."""
    return condition(value, kind).get("status") == "True"


def set_condition(value: Json, kind: str, status: str, *, reason: str, message: str, now: str) -> None:
    """Sets a condition; the time of its last change moves only with its status."""
    conditions = value.setdefault("status", {}).setdefault("conditions", [])
    held = condition(value, kind)
    if not held:
        held = {"type": kind}
        conditions.append(held)
    if held.get("status") != status:
        held["lastTransitionTime"] = now
    held |= {"status": status, "reason": reason, "message": message}


def settle(value: Json, others: Iterable[Json], *, now: str) -> None:
    """Sets acceptedNames and the conditions of a definition, beside the `others` of its group."""
    names, status = value["spec"]["names"], value.setdefault("status", {})
    held = status.get("acceptedNames") or {}
    taken, kinds = set(), set()
    for other in others:
        accepted = other.get("status", {}).get("acceptedNames") or {}
        taken |= {accepted.get("plural"), accepted.get("singular"), *accepted.get("shortNames", ())}
        kinds |= {accepted.get("kind"), accepted.get("listKind")}
    accepted, problem = dict(held), ("", "")
    short = names.get("shortNames") or []
    clash = [name for name in short if name in taken]
    if clash:
        problem = ("ShortNamesConflict", f'"{clash[0]}" is already in use')
    elif short:
        accepted["shortNames"] = short
    else:
        accepted.pop("shortNames", None)
    for used, rules in ((taken, _SINGLE), (kinds, _KINDS)):
        for field, reason in rules:
            if names.get(field) in used:
                problem = (reason, f'"{names[field]}" is already in use')
            else:
                accepted[field] = names.get(field, "")
    if names.get("categories"):
        accepted["categories"] = names["categories"]
    else:
        accepted.pop("categories", None)
    status["acceptedNames"] = {"plural": "", "kind": "", **accepted}
    if problem[0]:
        set_condition(value, "NamesAccepted", "False", reason=problem[0], message=problem[1], now=now)
        if not is_true(value, "Established"):
            text = "not all names are accepted"
            set_condition(value, "Established", "False", reason="NotAccepted", message=text, now=now)
        return
    set_condition(value, "NamesAccepted", "True", reason="NoConflicts", message="no conflicts found", now=now)
    if not is_true(value, "Established"):
        text = "the initial names have been accepted"
        set_condition(value, "Established", "True", reason="InitialNamesAccepted", message=text, now=now)
