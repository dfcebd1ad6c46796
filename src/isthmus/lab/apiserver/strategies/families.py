"""Cluster addresses of Services, for one family or two: which families, which addresses (KEP-563, KEP-3070).

Addresses in use are read off the stored Services whenever one is needed, so a freed address is free and a restart or
a crash forgets nothing; a bitmap of its own, which the real server keeps and has to repair, was rejected. Dynamic
addresses come from the upper part of the range first, which leaves the low ones to people who ask for one by number.
"""

import ipaddress
from collections.abc import Iterable, Iterator

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules
from isthmus.lab.apiserver.strategies.base import Network

MAX_TRIED = 65536  # addresses looked at in one allocation
POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
FIELDS = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
_FAMILIES = ("IPv4", "IPv6")
_POLICY = "spec.ipFamilyPolicy"


def reserved(network: Network) -> int:
    """Returns how many low addresses are given out only by number (KEP-3070: 1/16 of the range, 16-256)."""
    return min(max(16, network.num_addresses // 16), 256)


def first_address(network: Network) -> str:
    """Returns the address of the `kubernetes` Service."""
    return str(network[1])


def family(address: str) -> str:
    """Returns the family of a valid address."""
    return f"IPv{ipaddress.ip_address(address).version}"


def headless(spec: Json) -> bool:
    """Tells whether the Service is to have no address."""
    return spec.get("clusterIPs", [])[:1] == ["None"] or spec.get("clusterIP") == "None"


def normalise(spec: Json, was: Json | None) -> None:
    """Makes clusterIP and clusterIPs agree where only one of them was written, or changed."""
    if was is None:
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        return
    old_one, old_all = was.get("clusterIP", ""), was.get("clusterIPs", [])
    one, every = spec.get("clusterIP", ""), spec.get("clusterIPs", [])
    if old_all and not every and old_one == one:
        spec["clusterIPs"] = old_all
    elif old_one != one and every == old_all:
        if one:
            spec["clusterIPs"] = [one]
        else:
            spec.pop("clusterIPs", None)


def check(spec: Json) -> list[FieldError]:
    """Checks addresses, families and policy by themselves and against each other."""
    found: list[FieldError] = []
    one, every, families = spec.get("clusterIP", ""), spec.get("clusterIPs", []), spec.get("ipFamilies", [])
    path = "spec.clusterIPs"
    if one and not every:
        found.append(errors.required(path))
    elif one and every[0] != one:
        found.append(errors.invalid(path, every, "first value must match `clusterIP`"))
    elif every and not one:
        found.append(errors.invalid(path, every, "must be empty when `clusterIP` is not specified"))
    for index, word in enumerate(families):
        found += rules.one_of(word, f"spec.ipFamilies[{index}]", _FAMILIES)
        if word in families[:index]:
            found.append(errors.duplicate(f"spec.ipFamilies[{index}]", word))
    if "ipFamilyPolicy" in spec:
        found += rules.one_of(spec["ipFamilyPolicy"], _POLICY, POLICIES)
    bad: list[FieldError] = []
    for index, text in enumerate(every):
        if index == 0 and text == "None":
            if len(every) > 1:
                bad.append(errors.invalid(path, every, "'None' must be the first and only value"))
        else:
            bad += rules.address(text, f"{path}[{index}]")
    if len(every) > 2:
        found.append(errors.invalid(path, every, "may only hold up to 2 values"))
    if bad or every[:1] in ([], ["None"]):
        return found + bad
    if len({family(text) for text in every}) < len(every):
        found.append(errors.invalid(path, every, "may specify no more than one IP for each IP family"))
    for index, (text, word) in enumerate(zip(every, families, strict=False)):
        if word in _FAMILIES and family(text) != word:
            detail = f"expected an {word} value as indicated by `ipFamilies[{index}]`"
            found.append(errors.invalid(f"{path}[{index}]", text, detail))
    return found


def check_change(spec: Json, was: Json) -> list[FieldError]:
    """Checks that given addresses and families stay, but for the second, which may come and go."""
    if headless(spec) and headless(was):
        return []
    found: list[FieldError] = []
    for name, noun in (("clusterIPs", "clusterIP"), ("ipFamilies", "ipFamily")):
        new, old = spec.get(name, []), was.get(name, [])
        if old and not new:
            found.append(errors.invalid(f"spec.{name}[0]", new, f"primary {noun} can not be unset"))
        for index, (now, before) in enumerate(zip(new, old, strict=False)):
            if now != before:
                found.append(errors.invalid(f"spec.{name}[{index}]", new, "may not change once set"))
        if len(old) == 2 and len(new) == 1 and spec.get("ipFamilyPolicy", "") != "SingleStack":
            text = f"must be set to 'SingleStack' when releasing the secondary {noun}"
            found.append(errors.invalid(_POLICY, spec.get("ipFamilyPolicy"), text))
    return found


def settle(spec: Json, was: Json | None, networks: dict[str, Network]) -> list[FieldError]:
    """Decides policy and families of a checked Service; `networks` are those of the cluster by family, in order."""
    if was is not None and _stays_preferred(spec, was):
        return []
    orphan = headless(spec) and not spec.get("selector")
    if "ipFamilyPolicy" not in spec:
        before = (was or {}).get("ipFamilyPolicy")
        spec["ipFamilyPolicy"] = before or ("RequireDualStack" if orphan else "SingleStack")
    policy = spec["ipFamilyPolicy"]
    if was is not None and policy == "SingleStack":
        for name in ("clusterIPs", "ipFamilies"):
            if spec.get(name) == was.get(name):
                spec[name] = spec.get(name, [])[:1]
    families = list(spec.get("ipFamilies", ()))
    found: list[FieldError] = []
    if policy == "SingleStack":
        for name, noun in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")):
            if len(spec.get(name, ())) == 2:
                text = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {noun} are specified"
                found.append(errors.invalid(_POLICY, policy, text))
    for index, text in enumerate(spec.get("clusterIPs", ())):
        if text != "None" and index >= len(families):
            if family(text) in networks:
                families.append(family(text))
            else:
                told = f"{family(text)} is not configured on this cluster"
                found.append(errors.invalid(f"spec.clusterIPs[{index}]", spec["clusterIPs"], told))
    if not orphan:
        if policy == "RequireDualStack" and len(networks) < 2:
            text = "this cluster is not configured for dual-stack services"
            found.append(errors.invalid(_POLICY, policy, text))
        for index, word in enumerate(families):
            if word not in networks:
                found.append(errors.invalid(f"spec.ipFamilies[{index}]", word, "not configured on this cluster"))
    if found:
        return found
    families = families or list(networks)[:1]
    if policy != "SingleStack" and len(families) == 1 and (orphan or len(networks) == 2):
        families += [word for word in _FAMILIES if word not in families]
    if families:
        spec["ipFamilies"] = families
    return []


def _stays_preferred(spec: Json, was: Json) -> bool:
    """Tells whether nothing was asked for that could add or remove a family of a Service that prefers two."""
    names = ("type", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
    return spec.get("ipFamilyPolicy") == "PreferDualStack" and all(spec.get(name) == was.get(name) for name in names)


def _candidates(network: Network) -> Iterator[str]:
    last = network.num_addresses - (2 if network.version == 4 else 1)
    low = reserved(network)
    if low <= last:
        yield from (str(network[at]) for at in range(low, min(last, low + MAX_TRIED) + 1))
    yield from (str(network[at]) for at in range(2, min(low, last + 1)))


def allocate(spec: Json, networks: dict[str, Network], used: Iterable[str]) -> list[FieldError]:
    """Gives an address for every family that has none, or checks the one asked for; `used` are those of others."""
    if headless(spec):
        spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
        return []
    asked, taken = spec.get("clusterIPs", []), set(used)
    given: list[str] = []
    for index, word in enumerate(spec.get("ipFamilies", ())):
        network = networks.get(word)
        if index < len(asked):
            text = asked[index]
            detail = f"failed to allocate IP {text}: "
            if network is None or ipaddress.ip_address(text) not in network or not _usable(text, network):
                detail += "the provided network does not match the current range"
                return [errors.invalid("spec.clusterIPs", asked, detail)]
            if text in taken:
                return [errors.invalid("spec.clusterIPs", asked, f"{detail}provided IP is already allocated")]
            given.append(text)
        elif network is not None:
            free = next((text for text in _candidates(network) if text not in taken), None)
            if free is None:
                raise errors.internal("failed to allocate a serviceIP: range is full")
            given.append(free)
    if given:
        spec["clusterIP"], spec["clusterIPs"] = given[0], given
    return []


def _usable(text: str, network: Network) -> bool:
    address = ipaddress.ip_address(text)
    return address != network[0] and (network.version == 6 or address != network[-1])
