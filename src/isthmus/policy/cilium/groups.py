"""CiliumCIDRGroup: named lists of addresses outside the ClusterSet, which policies refer to.

A group is kept as text; what of it cannot be read is a problem of the policy that uses it, since only there it matters.
"""

from collections.abc import Mapping

from isthmus.policy.context import CidrGroup

MAX_CIDRS = 50_000


def cidr_group(obj: Mapping[str, object]) -> CidrGroup | None:
    """Returns a CiliumCIDRGroup (cilium.io/v2 or v2alpha1); None if it has no name.

    What is no list of strings, or too long, becomes one entry that nobody can read, so that a denial that uses the
    group does not get smaller for it.
    """
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping):
        return None
    name, labels = metadata.get("name"), metadata.get("labels")
    if not isinstance(name, str) or not name:
        return None
    spec = obj.get("spec")
    cidrs = spec.get("externalCIDRs") if isinstance(spec, Mapping) else spec
    if cidrs is None:
        cidrs = []
    if not isinstance(cidrs, list) or len(cidrs) > MAX_CIDRS:
        cidrs = ["(unreadable)"]
    return CidrGroup(
        name,
        {key: value for key, value in labels.items() if isinstance(key, str) and isinstance(value, str)}
        if isinstance(labels, Mapping)
        else {},
        tuple(cidr if isinstance(cidr, str) else "(unreadable)" for cidr in cidrs),
    )
