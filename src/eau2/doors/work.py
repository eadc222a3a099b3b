"""What clients ask for, whatever protocol they speak: one operation a request, and what came of it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from eau2.errors import Eau2Error


class Verb(StrEnum):
    """What is asked of a key, and what comes of it."""

    GET = "get"  # -> bytes, None where nothing is under the key; WrongKind for a frame
    PUT = "put"  # -> True
    CREATE = "create"  # -> True, or False where something is under the key
    UPDATE = "update"  # -> True, or False where nothing is
    DELETE = "delete"  # -> True, or False where nothing was


class Operation(NamedTuple):
    """One request of one key, which `check_key` has passed."""

    verb: Verb
    key: str
    value: bytes = b""


Outcome = bytes | bool | Eau2Error | None  # as `Verb` says; an error where the store refused or failed
