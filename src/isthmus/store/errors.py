"""What can go wrong with a store, by what the caller can do about it."""


class StoreError(Exception):
    """Root of all errors that the store raises on purpose."""


class Unavailable(StoreError):
    """No answer, or a broken stream: try again. A write may or may not have happened."""


class Denied(StoreError):
    """The server knows us and says no, or does not know us: a person must act."""


class NoSpace(StoreError):
    """The database is full (etcd's NOSPACE alarm): reads work, writes do not until space is made."""


class Compacted(StoreError):
    """The revision asked for is no longer kept: list again. `revision` is the oldest that is."""

    def __init__(self, message: str, *, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


class LeaseGone(StoreError):
    """The lease expired or never existed."""


class TooLarge(StoreError):
    """The request or the answer is larger than one of us accepts: ask for, or send, less at a time."""


class Refused(StoreError):
    """The server understood the request and refuses it: trying again will not help."""
