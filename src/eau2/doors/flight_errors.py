"""How eau2's errors are told to clients of Flight, and understood again by ours."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pyarrow as pa
from pyarrow import flight

from eau2 import errors
from eau2.doors.log import log
from eau2.errors import Eau2Error

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE_LENGTH_MAX = 2_000  # gRPC sends it in headers, twice; at 8 KiB of them clients refuse the answer

_NOT_FOUND = (errors.KeyMissing, errors.UnknownTable)
_UNAVAILABLE = (errors.StoreClosed, errors.NodeUnavailable, errors.ClusterUnavailable)
_TIMED_OUT = (errors.WaitTimeout, errors.StoreBusy, errors.OutcomeUnknown)
_INTERNAL = (errors.Corrupt, errors.FormatTooNew, errors.NotAStore)
_INVALID = (
    errors.KeyExists,  # of which pyarrow's server knows no better status
    errors.VersionConflict,
    errors.InvalidKey,
    errors.InvalidValue,
    errors.ValueTooLarge,
    errors.WrongKind,
    errors.InvalidOption,
    errors.QueryError,
    errors.LoadError,
)
_STATUS: tuple[tuple[tuple[type[Eau2Error], ...], type[pa.ArrowException]], ...] = (
    (_NOT_FOUND, pa.ArrowKeyError),
    (_INVALID, pa.ArrowInvalid),
    (_UNAVAILABLE, flight.FlightUnavailableError),
    (_TIMED_OUT, flight.FlightTimedOutError),
    (_INTERNAL, flight.FlightInternalError),
)
_OF_ARROW = (pa.ArrowKeyError, pa.ArrowNotImplementedError)  # others say that what was sent is not as it should be
_NAMED = re.compile(r"\. Detail: Python exception: (\w+).*", re.DOTALL)
_DETAIL = re.compile(r"\. Detail: (?:Failed|Internal|TimedOut|Unavailable)\b.*", re.DOTALL)


def flight_error(error: Eau2Error) -> pa.ArrowException:
    """Return what a Flight server raises for `error`, to be raised `from None`; the client's status follows from it.

    Errors of Flight carry the class and the hint of `error` as JSON in `extra_info`. NOT_FOUND and INVALID_ARGUMENT
    have no errors of Flight, only of Arrow, which carry a message and the name of their class: so that is the name of
    `error`'s.
    """
    name, text = type(error).__name__, _shortened(str(error))
    for kinds, status in _STATUS:
        if isinstance(error, kinds):
            if not issubclass(status, flight.FlightError):
                return refusal(status, text, name)
            break
    else:
        status = flight.FlightServerError
    return status(text, json.dumps({"error": name, "hint": _shortened(error.hint)}).encode())


@contextmanager
def told_to_client() -> Iterator[None]:
    """Raise every error as one that a Flight server may raise: errors of Flight, and of Arrow without their traceback.
    What is our own fault is logged, and the client hears no more than that."""
    try:
        yield
    except Eau2Error as error:
        raise flight_error(error) from None
    except flight.FlightError:
        raise
    except pa.ArrowException as error:
        status = next((kind for kind in _OF_ARROW if isinstance(error, kind)), pa.ArrowInvalid)
        raise (error if _is_refusal(error) else refusal(status, str(error))) from None
    except Exception as error:
        log("failed", error=repr(error))
        raise flight.FlightInternalError(f"the server failed: {type(error).__name__}") from None


@contextmanager
def told_by_get_schema() -> Iterator[None]:
    """As `told_to_client`, for the verb `get_schema`: there pyarrow knows no errors of Flight, and would send their
    tracebacks, with no better status than INVALID_ARGUMENT."""
    try:
        with told_to_client():
            yield
    except flight.FlightError as error:
        told = eau2_error(error)
        raise refusal(pa.ArrowInvalid, str(error), type(told or error).__name__) from None


def refusal(status: type[pa.ArrowException], text: str, name: str = "") -> pa.ArrowException:
    """Return an error of `status`, one of Arrow's, whose traceback pyarrow does not send to the client."""
    kind = type(name or status.__name__, (status,), {"__cause__": property(_untold)})
    found: pa.ArrowException = kind(_shortened(text))
    return found


def invalid(text: str) -> pa.ArrowException:
    """Return an error of status INVALID_ARGUMENT."""
    return refusal(pa.ArrowInvalid, text)


def unsupported(text: str) -> pa.ArrowException:
    """Return an error of status UNIMPLEMENTED."""
    return refusal(pa.ArrowNotImplementedError, text)


def eau2_error(error: BaseException) -> Eau2Error | None:
    """Return the error of eau2 that a server told by `error`, which a client of Flight got; None where it told none."""
    text = str(error)
    hint = name = ""
    try:
        told = json.loads(getattr(error, "extra_info", b"") or b"{}")
        name, hint = str(told["error"]), str(told["hint"])
    except (ValueError, KeyError, TypeError):
        found = _NAMED.search(text)
        name = found[1] if found else ""
        text = _NAMED.sub("", text)
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Eau2Error)):
        return None
    text = _DETAIL.sub("", text)
    if hint and text.endswith(f" ({hint})"):
        text = text[: -len(hint) - 3]
    return kind(text, found=0, hint=hint) if kind is errors.VersionConflict else kind(text, hint=hint)


def _is_refusal(error: pa.ArrowException) -> bool:
    return "__cause__" in vars(type(error))


def _untold(error: BaseException) -> NoReturn:
    # pyarrow's server sends the whole traceback of an error that is none of Flight's, with files and lines of ours. It
    # asks Python to write it, which looks at the cause first; when that fails the name of the class is sent instead.
    raise AttributeError("the traceback is not for clients")


def _shortened(text: str) -> str:
    return text if len(text) <= MESSAGE_LENGTH_MAX else text[:MESSAGE_LENGTH_MAX] + "..."
