"""Selectors of subjects and peers: which pods they mean, with the namespace and cluster that Cilium adds.

The rules are those of reference cilium-policy §2.3 and §2.4, to the letter: what a selector mentions, in matchLabels or
matchExpressions and with any operator, is never added. The cluster is added under the scope `local` alone.
Invariant: the result stands alone; nobody has to know where the policy lives to match it.
"""

from collections.abc import Mapping

from isthmus.model.identity import RESERVED_SOURCE
from isthmus.model.labels import CILIUM_CLUSTER, CILIUM_NAMESPACE_LABELS, POD_NAMESPACE
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.cilium.entities import RESERVED_KEYS
from isthmus.policy.cilium.reading import Reading
from isthmus.policy.rules import EndpointPeer, NodePeer, Scope

_OWN_NAMESPACE = f"k8s:{POD_NAMESPACE}"
_INIT = f"{RESERVED_SOURCE}init"


def subject(value: object, field: str, reading: Reading) -> EndpointPeer | None:
    """Returns whom an endpointSelector means, of the policy's namespace (which Policy.namespace sees to).

    In a namespaced policy a match on `k8s:io.kubernetes.pod.namespace` is replaced by the policy's own namespace; one
    without that prefix is kept, and selects nothing if it is about another.
    """
    if reading.namespace and isinstance(value, Mapping):
        labels = value.get("matchLabels")
        if isinstance(labels, Mapping) and _OWN_NAMESPACE in labels:
            if labels[_OWN_NAMESPACE] != reading.namespace:
                reading.warn(
                    f"{field}.matchLabels",
                    f"{_OWN_NAMESPACE} is ignored: the policy selects pods of its own namespace {reading.namespace}",
                )
            rest = {key: found for key, found in labels.items() if key != _OWN_NAMESPACE}
            value = {**value, "matchLabels": rest}
    selector = reading.selector(value, field)
    if selector is None:
        return None
    if foreign := _foreign(selector):
        reading.warn(field, f"selects by {foreign}: pods have no such labels")
    return EndpointPeer(selector)


def peer(value: object, field: str, reading: Reading, *, init: bool = False) -> EndpointPeer | None:
    """Returns whom an item of fromEndpoints or toEndpoints means; `init` if the subject selector is for such pods."""
    selector = reading.selector(value, field)
    if selector is None:
        return None
    if foreign := _foreign(selector):
        # Upstream some of these are labels of addresses, which have entries of their own.
        reading.unenforced(field, f"selects by {foreign}, which nothing is known by here")
        return None
    return EndpointPeer(inject(selector, reading, init=init))


def _foreign(selector: Selector) -> str:
    """Returns a key of `selector` that is of no source that we know, or a reserved word that nobody has; or nothing."""
    keys = (term.key for term in selector.terms)
    return next((key for key in keys if ":" in key and key not in RESERVED_KEYS), "")


def inject(selector: Selector, reading: Reading, *, init: bool = False) -> Selector:
    """Adds the namespace and the cluster that `selector` does not mention (reference: cilium-policy §2.4)."""
    keys = [term.key for term in selector.terms]
    if any(key.startswith(RESERVED_SOURCE) for key in keys):
        return selector
    terms = list(selector.terms)
    if POD_NAMESPACE not in keys:
        if not reading.namespace:
            if not init:
                terms.append(Term(POD_NAMESPACE, Operator.EXISTS))
        elif not any(key.startswith(CILIUM_NAMESPACE_LABELS) for key in keys):
            terms.append(Term(POD_NAMESPACE, Operator.IN, (reading.namespace,)))
    if reading.scope is Scope.LOCAL and not selector.names_clusters:
        terms.append(Term(CILIUM_CLUSTER, Operator.IN, (reading.context.cluster,)))
    return Selector.of(*terms)


def for_init(found: EndpointPeer | None) -> bool:
    """Tells whether a subject selector is for endpoints without an identity yet, which have no namespace either."""
    return found is not None and found.selector.names(_INIT)


def nodes(value: object, field: str, reading: Reading) -> NodePeer | None:
    """Returns which nodes an item of fromNodes or toNodes means: never the pod's own."""
    selector = reading.selector(value, field)
    found = None if selector is None else reading.sourced(selector, "node", field)
    if found is None:
        return None
    local = reading.scope is Scope.LOCAL and not found.names_clusters
    return NodePeer(found, reading.context.cluster if local else "", own=False)
