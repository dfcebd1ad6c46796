"""Which version of ServiceExports an API server has, which may not know the kind, or may learn of it later.

Found by discovery, because both kinds of the API go together. Rejected: taking a server that lets nobody read them for
one that cannot be asked, which would keep every cluster from being complete that exports nothing.
"""

from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, NotFound
from isthmus.kube.resources import Resource
from isthmus.mesh.mcs.api import discover


async def find_exports(client: Client) -> Resource | None:
    """Returns the best version that is served to us; None also where we may not read it, or ask."""
    try:
        api = await discover(client)
        if api is not None:
            await client.raw("GET", api.exports.path(), params={"limit": "1"})
    except (Forbidden, NotFound):
        return None
    return api.exports if api is not None else None
