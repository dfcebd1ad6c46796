"""Which keys are written in which order: ranks for the publisher's ledger.

Readers may see the store at any moment, so the order of writes is part of the meaning: an address never points to an
identity that is not there yet; a cluster that leaves is first no member, then not complete, then gone; the mark that a
kind is complete follows everything that was waiting when it was set.
"""

from enum import IntEnum

from isthmus.wire.kvstore import CACHE, CONFIGS, STATE, SYNCED, WHOLE, Kind


class Rank(IntEnum):
    """Lower ranks are written first, or in the same commit."""

    CONFIG_GONE = 0
    SYNCED_GONE = 1
    ENDPOINT_GONE = 2
    CONFIG = 3
    BASE = 4
    ENDPOINT = 5
    BASE_GONE = 6
    SYNCED = 7


RANKS = len(Rank)

_ENDPOINTS = tuple(place + Kind.ENDPOINTS.value.encode() + b"/" for place in (STATE, CACHE))


def rank_of(key: bytes) -> Rank:
    """The rank for writing `key`."""
    if key.startswith(CONFIGS):
        return Rank.CONFIG
    if key.startswith((SYNCED, WHOLE)):
        return Rank.SYNCED
    return Rank.ENDPOINT if key.startswith(_ENDPOINTS) else Rank.BASE


def rank_of_removal(key: bytes) -> Rank:
    """The rank for deleting `key`."""
    match rank_of(key):
        case Rank.CONFIG:
            return Rank.CONFIG_GONE
        case Rank.SYNCED:
            return Rank.SYNCED_GONE
        case Rank.ENDPOINT:
            return Rank.ENDPOINT_GONE
        case _:
            return Rank.BASE_GONE
