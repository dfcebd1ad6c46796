"""Answers to "why" as text for people, and as data with stable keys. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from isthmus.cli.policy.sources import as_yaml
from isthmus.cli.policy.wrapping import wrapped
from isthmus.model.endpoint import family_of
from isthmus.model.flow import Protocol
from isthmus.policy.evaluate import Reason
from isthmus.policy.explaining.answers import Answer
from isthmus.policy.explaining.cells import port_text
from isthmus.policy.explaining.ends import End
from isthmus.policy.explaining.halves import Decider, HalfReport, PartyKind, Trouble
from isthmus.policy.explaining.remedies import Remedies, Remedy, RemedyKind
from isthmus.policy.rules import Grade, ObjectRef, Tier

MOST_PODS = 4

_WORDS = {
    Reason.RULE: "AllowedByRule",
    Reason.DENIED: "DeniedByRule",
    Reason.DEFAULT_DENY: "DefaultDeny",
    Reason.OPEN: "NotIsolated",
    Reason.OWN_NODE: "OwnNode",
    Reason.ITSELF: "Itself",
    Reason.UNKNOWN: "UnknownPod",
}
_FAMILIES = {4: "IPv4", 6: "IPv6"}


def text(answers: Sequence[Answer], notes: Iterable[str], contexts: Mapping[str, str] | None = None) -> str:
    """Returns everything for people; `contexts` are those of clusters, for what is to be applied."""
    lines: list[str] = []
    for note in notes:
        lines += wrapped(note, "")
    for answer in answers:
        lines += ([""] if lines else []) + _answer(answer, contexts or {})
    if len(answers) > 1:
        allowed = sum(answer.allowed for answer in answers)
        lines += ["", f"{allowed} of {len(answers)} allowed"]
    return "\n".join(lines) + "\n"


def _answer(answer: Answer, contexts: Mapping[str, str]) -> list[str]:
    sign = "✅" if answer.allowed else "❌"
    port = port_text(answer.protocol, answer.port)
    family = f" ({_FAMILIES[answer.families[0]]} only)" if _partial(answer) else ""
    ends = f"{answer.source.name} -> {answer.destination.name}"
    lines = wrapped(f"{sign} {ends}  {port}{family}: {_verdict(answer)}", "", hanging=3)
    for word, end in (("from", answer.source), ("to", answer.destination)):
        pods = _pods(end)
        if pods:
            lines += wrapped(f"{word + ':':<6}{pods}", "   ", hanging=6)
    lines.append("")
    width = max(len(half.cluster or "-") for half in (answer.egress, answer.ingress))
    for half in (answer.egress, answer.ingress):
        lines += _half(half, width)
    uncertain = _uncertain(answer)
    if uncertain:
        lines += ["", *uncertain]
    if answer.remedies is not None:
        lines += ["", *_remedies(answer.remedies, contexts)]
    return lines


def _partial(answer: Answer) -> bool:
    both = {family_of(p.ip) for p in answer.source.parties} & {family_of(p.ip) for p in answer.destination.parties}
    return len(both) > len(answer.families)


def _verdict(answer: Answer) -> str:
    if answer.allowed:
        return "allowed"
    where = [
        f"{half.direction.value} in {half.cluster}" for half in (answer.egress, answer.ingress) if not half.allowed
    ]
    return "DENIED at " + " and at ".join(where)


def _pods(end: End) -> str:
    pod = end.parties[0].pod
    if end.imaginary and pod is not None:
        return f"pods of {pod.workload}, as its manifest makes them" if pod.workload else "as its manifest makes it"
    if not end.members or end.kind is not PartyKind.POD or end.name.endswith(")"):
        return ""
    names = ", ".join(end.members[:MOST_PODS])
    more = f" and {len(end.members) - MOST_PODS} more" if len(end.members) > MOST_PODS else ""
    return f"pod{'s' if len(end.members) > 1 else ''} {names}{more}"


def _half(half: HalfReport, width: int) -> list[str]:
    verdict = "allowed" if half.allowed else "DENIED"
    if half.reason is None:
        verdict = "-"
    head = f"   {half.direction.name:<8} {half.cluster or '-':<{width}}  {verdict:<8} "
    said = _why(half)
    lines: list[str] = []
    for paragraph in said:
        lines += wrapped(paragraph, head if not lines else " " * len(head))
    return lines


def _why(half: HalfReport) -> list[str]:
    """Returns paragraphs: what decided, and what one should know besides."""
    lines = [f"passed on by {' '.join(_decider(passed))}" for passed in half.passed]
    decider = half.decider
    match half.reason:
        case None:
            lines.append(half.note)
        case Reason.RULE | Reason.DENIED if decider is not None:
            lines += _decider(decider)
        case Reason.DEFAULT_DENY:
            lines.append(f"isolated by {_refs(one.policy for one in half.isolating)}; no rule allows this")
            scopes = {one.scope.value for one in half.isolating}
            lines[-1] += f" (scope {', '.join(sorted(scopes))})"
        case Reason.OPEN:
            lines.append(half.note or "no policy isolates these pods in this direction")
        case Reason.UNKNOWN:
            lines.append("an address of a node's pod network that no known pod has")
        case reason:
            lines.append(reason.value)
    for close in half.close:
        rule = f"{close.field}" + (f" ({close.name})" if close.name else "")
        lines.append(f"close: {close.policy} {rule}: {close.why}")
    for trouble in half.troubles:
        word = {Grade.INVALID: "invalid", Grade.UNENFORCED: "not enforced", Grade.WARNING: "warning"}
        lines.append(f"{word[trouble.problem.grade]}: {trouble.policy} {trouble.problem}{_kept(trouble)}")
    return lines


def _kept(trouble: Trouble) -> str:
    if trouble.kept_on:
        return f" (an earlier version is in force on {_nodes(trouble.kept_on)})"
    return " (a node that had a valid version goes on with that)" if trouble.problem.grade is Grade.INVALID else ""


def _uncertain(answer: Answer) -> list[str]:
    """Returns what to know of an answer if nodes have something else than the objects that it was found with."""
    found: dict[str, tuple[str, ...]] = {
        str(trouble.policy): trouble.kept_on
        for half in (answer.egress, answer.ingress)
        for trouble in half.troubles
        if trouble.kept_on
    }
    if not found:
        return []
    nodes = _nodes(dict.fromkeys(node for names in found.values() for node in names))
    objects = ", ".join(found)
    said = f"This is what the objects say. {nodes} may do otherwise: an earlier version of {objects} is in force there"
    return wrapped(f"{said}, until the object is valid again.", "   ")


def _nodes(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:MOST_PODS]) + (f" and {len(known) - MOST_PODS} more" if len(known) > MOST_PODS else "")


def _decider(decider: Decider) -> list[str]:
    name = f' "{decider.name}"' if decider.name else ""
    tier = "" if decider.tier is Tier.NORMAL else f" ({decider.tier.value} tier)"
    return [f"{decider.policy}{tier}", f"{decider.field}{name} (scope {decider.scope.value})"]


def _refs(refs: Iterable[ObjectRef]) -> str:
    unique = list(dict.fromkeys(map(str, refs)))
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return ", ".join(unique[:3]) + more


def _remedies(found: Remedies, contexts: Mapping[str, str]) -> list[str]:
    if not found.steps:
        return wrapped(f"No change to suggest: {found.missing}.", "   ")
    lines = ["   To allow it:" if found.sufficient else "   To come closer:"]
    for number, step in enumerate(found.steps, 1):
        lines += [""] if number > 1 else []
        mark = f"{number}. " if len(found.steps) > 1 else ""
        lines += wrapped(f"{mark}{step.text}", "   ", hanging=len(mark))
        lines += _step(step, contexts.get(step.cluster, ""))
    if not found.sufficient:
        lines += ["", *wrapped(f"Still denied then: {found.missing}.", "   ")]
    elif len(found.steps) > 1:
        lines += ["", f"   Judged again with these {len(found.steps)} changes: allowed."]
    else:
        lines += ["", "   Judged again with this change: allowed."]
    return lines


def _step(step: Remedy, context: str) -> list[str]:
    lines = []
    kubectl = f"kubectl --context {context}" if context else "kubectl"
    if step.also:
        named = "; ".join(f"{one.source} -> {one.destination} ({one.ports})" for one in step.also)
        more = f"; and {step.more} more" if step.more else ""
        lines += wrapped(f"It also opens: {named}{more}.", "   ")
    if step.kind is RemedyKind.DELETE:
        space = f" -n {step.policy.namespace}" if step.policy.namespace else ""
        return [*lines, "", f"      {kubectl} delete{space} {step.policy.kind.lower()} {step.policy.name}"]
    head = [f"      # {kubectl} apply -f -"] if context else []
    return [*lines, "", *head, *("      " + line if line else "" for line in as_yaml(step.object).splitlines())]


# -- data ----------------------------------------------------------------------------------------------------------


def as_data(answers: Sequence[Answer], notes: Iterable[str]) -> dict[str, Any]:
    """Returns everything for machines."""
    return {
        "allowed": all(answer.allowed for answer in answers),
        "notes": list(notes),
        "answers": [_answer_data(answer) for answer in answers],
    }


def _answer_data(answer: Answer) -> dict[str, Any]:
    word = Protocol(answer.protocol).name if answer.protocol in set(Protocol) else str(answer.protocol)
    return {
        "from": _end_data(answer.source),
        "to": _end_data(answer.destination),
        "protocol": word,
        "port": answer.port,
        "ipFamilies": [_FAMILIES[family] for family in answer.families],
        "allowed": answer.allowed,
        "egress": _half_data(answer.egress),
        "ingress": _half_data(answer.ingress),
        "remedies": None if answer.remedies is None else _remedies_data(answer.remedies),
    }


def _end_data(end: End) -> dict[str, Any]:
    return {
        "name": end.name,
        "kind": end.kind.value,
        "cluster": end.cluster,
        "pods": list(end.members),
        "addresses": [] if end.imaginary else sorted({party.ip for party in end.parties}),
        "imaginary": end.imaginary,
        "service": end.service,
        "domain": end.domain,
    }


def _half_data(half: HalfReport) -> dict[str, Any]:
    decider = half.decider
    return {
        "direction": half.direction.value,
        "allowed": half.allowed,
        "judged": half.reason is not None,
        "reason": _WORDS[half.reason] if half.reason is not None else "NotJudged",
        "message": _message(half),
        "cluster": half.cluster,
        "node": half.node,
        "tier": decider.tier.value if decider else "",
        "policy": ref_data(decider.policy) if decider else None,
        "field": decider.field if decider else "",
        "rule": decider.name if decider else "",
        "action": decider.action.value if decider and decider.action else "",
        "scope": decider.scope.value if decider else "",
        "passedBy": [_decider_data(one) for one in half.passed],
        "isolatedBy": [_decider_data(one) for one in half.isolating],
        "nearMisses": [
            {"policy": ref_data(one.policy), "field": one.field, "rule": one.name, "reason": one.why}
            for one in half.close
        ],
        "problems": [
            {
                "policy": ref_data(one.policy),
                "field": one.problem.field,
                "grade": one.problem.grade.value,
                "message": one.problem.message,
                # What was judged is the latest version; only the node knows whether it had a valid one before.
                "earlierVersionMayApply": one.problem.grade is Grade.INVALID,
                "earlierVersionOn": list(one.kept_on),
            }
            for one in half.troubles
        ],
    }


def _message(half: HalfReport) -> str:
    """Returns why in one line, without what one should know besides."""
    said = _why(msgspec.structs.replace(half, close=(), troubles=()))
    return " ".join(said) if half.reason in (Reason.RULE, Reason.DENIED) else "; ".join(said)


def ref_data(ref: ObjectRef) -> dict[str, str]:
    """Returns what names an object."""
    return {"kind": ref.kind, "namespace": ref.namespace, "name": ref.name}


def _decider_data(decider: Decider) -> dict[str, Any]:
    return {
        "policy": ref_data(decider.policy),
        "tier": decider.tier.value,
        "scope": decider.scope.value,
        "field": decider.field,
        "rule": decider.name,
    }


def _remedies_data(found: Remedies) -> dict[str, Any]:
    return {
        "sufficient": found.sufficient,
        "missing": found.missing,
        "steps": [
            {
                "action": "delete" if step.kind is RemedyKind.DELETE else "apply",
                "cluster": step.cluster,
                "direction": step.direction.value,
                "policy": ref_data(step.policy),
                "text": step.text,
                "copiedFrom": step.model,
                "alsoOpens": msgspec.to_builtins(step.also),
                "moreOpened": step.more,
                "manifest": step.object,
            }
            for step in found.steps
        ],
    }
