"""eau2: a key-value store whose values are bytes or read-only dataframes."""

from typing import TYPE_CHECKING, Any

from eau2 import errors
from eau2.errors import (
    ClusterUnavailable,
    Corrupt,
    DiskFull,
    Eau2Error,
    FormatTooNew,
    FunctionFailed,
    InvalidKey,
    InvalidOption,
    InvalidValue,
    KeyExists,
    KeyMissing,
    LoadError,
    NodeUnavailable,
    NotAllowed,
    NotAStore,
    OutcomeUnknown,
    PartMissing,
    ProgramFailed,
    QueryError,
    QueryOutOfMemory,
    ReadOnly,
    StoreBusy,
    StoreClosed,
    StoreUnusable,
    UnknownColumn,
    UnknownTable,
    ValueTooLarge,
    VersionConflict,
    VersionsDiffer,
    WaitTimeout,
    WrongKind,
)
from eau2.frame.frame import Frame
from eau2.ingest.report import LoadReport
from eau2.opening import open  # `eau2.open` is what users type
from eau2.store.store import Store

if TYPE_CHECKING:
    from datafusion import col, functions, lit

    from eau2.programs.application import Application
    from eau2.programs.linus import linus
    from eau2.programs.running import run
    from eau2.programs.wordcount import wordcount

__version__ = "0.1.0"

__all__ = [
    "Application",
    "ClusterUnavailable",
    "Corrupt",
    "DiskFull",
    "Eau2Error",
    "FormatTooNew",
    "Frame",
    "FunctionFailed",
    "InvalidKey",
    "InvalidOption",
    "InvalidValue",
    "KeyExists",
    "KeyMissing",
    "LoadError",
    "LoadReport",
    "NodeUnavailable",
    "NotAStore",
    "NotAllowed",
    "OutcomeUnknown",
    "PartMissing",
    "ProgramFailed",
    "QueryError",
    "QueryOutOfMemory",
    "ReadOnly",
    "Store",
    "StoreBusy",
    "StoreClosed",
    "StoreUnusable",
    "UnknownColumn",
    "UnknownTable",
    "ValueTooLarge",
    "VersionConflict",
    "VersionsDiffer",
    "WaitTimeout",
    "WrongKind",
    "__version__",
    "col",
    "errors",
    "functions",
    "linus",
    "lit",
    "open",
    "run",
    "wordcount",
]


_PROGRAMS = {"Application": "application", "linus": "linus", "run": "running", "wordcount": "wordcount"}  # and module


def __getattr__(name: str) -> Any:
    """What not everybody needs is imported when first asked for: the engine takes 0.3 s, the programs 0.1 s."""
    if name in ("col", "lit", "functions"):
        import datafusion

        return getattr(datafusion, name)
    if name in _PROGRAMS:
        from importlib import import_module

        return getattr(import_module(f"eau2.programs.{_PROGRAMS[name]}"), name)
    raise AttributeError(f"module 'eau2' has no attribute {name!r}")
