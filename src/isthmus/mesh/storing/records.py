"""Which records of whole services (format v1) are due, and what goes into them: decisions only.

Readers up to Cilium 1.19 know no slices, so all that answers for a Service is written once more in one value. Our own
readers never look at it. Invariants: only of the own cluster, whose part of the store other clusters read; a record
is made of what is told when it is made, however often it was due before; facts are held by reference, as the fleet has
them. Rejected: a record for each change of a slice: with 5,000 backends each is near 1 MB.
"""

from collections.abc import Iterable

from isthmus.model.mesh import ClusterLeft, MeshEvent, ServiceGone, ServiceTold, SliceGone, SliceTold
from isthmus.model.service import ServiceKey
from isthmus.model.sharing import SharedService, SharedSlice


class ServiceRecords:
    """Services and slices of cluster `own`."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._services: dict[ServiceKey, SharedService] = {}
        self._slices: dict[ServiceKey, dict[tuple[str, str], SharedSlice]] = {}
        self._service_of: dict[tuple[str, str], ServiceKey] = {}
        self._due: dict[ServiceKey, None] = {}

    @property
    def due(self) -> bool:
        """Whether any record must be written."""
        return bool(self._due)

    def take(self, event: MeshEvent) -> None:
        """Takes an event of any cluster in."""
        match event:
            case ServiceTold(service) if service.cluster == self._own:
                self._services[service.key] = service
                self._due[service.key] = None
            case ServiceGone(self._own, key):
                self._services.pop(key, None)
                self._due[key] = None
            case SliceTold(slice_) if slice_.cluster == self._own:
                self._drop(slice_.key)
                self._slices.setdefault(slice_.service_key, {})[slice_.key] = slice_
                self._service_of[slice_.key] = slice_.service_key
                self._due[slice_.service_key] = None
            case SliceGone(self._own, key):
                self._drop(key)
            case ClusterLeft(self._own):
                self.clear()

    def clear(self) -> None:
        """Forgets everything; records that are there are somebody else's to remove."""
        for table in (self._services, self._slices, self._service_of, self._due):
            table.clear()

    def waiting(self) -> list[ServiceKey]:
        """Returns which records are due; they stay so until they are taken."""
        return list(self._due)

    def take_due(self, among: Iterable[ServiceKey] | None = None) -> list[ServiceKey]:
        """Returns which records (all, or those `among`) are due since they were taken last; they are due no more."""
        taken = list(self._due) if among is None else [key for key in among if key in self._due]
        for key in taken:
            del self._due[key]
        return taken

    def content(self, key: ServiceKey) -> tuple[SharedService, list[SharedSlice]] | None:
        """Returns what goes into a record, None if there must be none."""
        service = self._services.get(key)
        if service is None or not service.shared:
            return None
        return service, list(self._slices.get(key, {}).values())

    def _drop(self, key: tuple[str, str]) -> None:
        of = self._service_of.pop(key, None)
        if of is None:
            return
        siblings = self._slices[of]
        del siblings[key]
        if not siblings:
            del self._slices[of]
        self._due[of] = None
