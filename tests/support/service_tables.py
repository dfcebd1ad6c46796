"""What a table says about services, in the words of tests."""

from isthmus.model.service import Target
from isthmus.ruleset.service_layout import BACKENDS, NEAR
from isthmus.ruleset.services import ServiceCompiler
from isthmus.services.frontends import FrontendKey


def in_use(services: ServiceCompiler, key: FrontendKey) -> frozenset[Target]:
    """Returns all targets that a new connection to a frontend may be sent to."""
    version = 6 if ":" in key[0] else 4
    found = [services.table.elements[maps[version].name] for maps in (BACKENDS, NEAR)]
    return frozenset(target for content in found for place, target in content.items() if place[:3] == key)
