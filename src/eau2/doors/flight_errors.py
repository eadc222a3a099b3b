"""eau2's errors as those of Arrow Flight: with the status that clients of other makes know, and all of it for ours."""

from __future__ import annotations

import json

from pyarrow import flight

from eau2 import errors
from eau2.served.wire import described

_KINDS: tuple[tuple[type[errors.Eau2Error], type[flight.FlightError]], ...] = (
    (errors.StoreClosed, flight.FlightUnavailableError),
    (errors.NodeUnavailable, flight.FlightUnavailableError),
    (errors.ClusterUnavailable, flight.FlightUnavailableError),
    (errors.WaitTimeout, flight.FlightTimedOutError),
    (errors.StoreBusy, flight.FlightTimedOutError),
    (errors.OutcomeUnknown, flight.FlightTimedOutError),
)


def flight_error(error: errors.Eau2Error) -> flight.FlightError:
    """Return the error that is raised to a client. Its `extra_info` is JSON that our own client makes `error` of."""
    kind = next((of for known, of in _KINDS if isinstance(error, known)), flight.FlightServerError)
    return kind(str(error), extra_info=json.dumps(described(error)).encode())
