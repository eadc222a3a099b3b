"""eau2's errors by Flight: what status they have, that ours come back, and that nothing of our code is told."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyarrow import flight

from eau2 import errors
from eau2.doors.flight_errors import (
    MESSAGE_LENGTH_MAX,
    eau2_error,
    flight_error,
    told_by_get_schema,
    told_to_client,
)

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Eau2Error)]
STATUS = {
    errors.KeyMissing: pa.ArrowKeyError,
    errors.UnknownTable: pa.ArrowKeyError,
    errors.UnknownColumn: pa.ArrowInvalid,
    errors.KeyExists: pa.ArrowInvalid,
    errors.StoreClosed: flight.FlightUnavailableError,
    errors.NodeUnavailable: flight.FlightUnavailableError,
    errors.StoreBusy: flight.FlightTimedOutError,
    errors.Corrupt: flight.FlightInternalError,
    errors.DiskFull: flight.FlightServerError,
}


class Failing(flight.FlightServerBase):
    """Raises, as a server does, what it was last given: at once, or in its stream."""

    def __init__(self):
        super().__init__("grpc://127.0.0.1:0")
        self.error = None

    def get_flight_info(self, context, descriptor):
        with told_to_client():
            raise self.error

    def get_schema(self, context, descriptor):
        with told_by_get_schema():
            raise self.error

    def do_get(self, context, ticket):
        def batches():
            yield pa.record_batch({"n": [1]})
            with told_to_client():
                raise self.error

        return flight.GeneratorStream(pa.schema({"n": pa.int64()}), batches())


@pytest.fixture
def ask():
    with Failing() as server, flight.connect(f"grpc://127.0.0.1:{server.port}") as client:

        def asked(error, *, streaming):
            server.error = error
            with pytest.raises((pa.ArrowException, flight.FlightError)) as caught:
                if streaming:
                    client.do_get(flight.Ticket(b"")).read_all()
                else:
                    client.get_flight_info(flight.FlightDescriptor.for_command(b""))
            return caught.value

        yield asked


@pytest.mark.parametrize(
    "error", [errors.StoreClosed("it was closed"), flight.FlightUnauthenticatedError("who?"), RuntimeError("secret")]
)
def test_get_schema_tells_nothing_of_our_code_either(error):
    with Failing() as server, flight.connect(f"grpc://127.0.0.1:{server.port}") as client:
        server.error = error
        with pytest.raises(pa.ArrowInvalid) as caught:
            client.get_schema(flight.FlightDescriptor.for_command(b""))
    assert "Traceback" not in str(caught.value)
    assert "secret" not in str(caught.value)
    if isinstance(error, errors.Eau2Error):
        assert type(eau2_error(caught.value)) is type(error)


def made(kind, message, hint):
    return kind(message, found=1, hint=hint) if kind is errors.VersionConflict else kind(message, hint=hint)


def test_every_error_comes_back_as_it_was(ask, subtests):
    for kind in KINDS:
        for streaming in (False, True):
            with subtests.test(kind.__name__, streaming=streaming):
                told = ask(made(kind, "no frame 'x'", "do this"), streaming=streaming)
                assert type(told) is STATUS.get(kind, type(told))
                found = eau2_error(told)
                assert type(found) is kind
                assert str(found) == "no frame 'x' (do this)"
                assert "no frame 'x' (do this)" in str(told)


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_of_our_code_is_told(ask, streaming):
    for error in (errors.KeyMissing("no 'x'"), pa.ArrowInvalid("bad"), RuntimeError("secret"), ZeroDivisionError()):
        text = str(ask(error, streaming=streaming))
        assert "Traceback" not in text
        assert ".py" not in text
        assert "secret" not in text


@pytest.mark.parametrize("kind", [errors.QueryError, errors.DiskFull])
def test_a_long_message_is_cut_and_arrives(ask, kind):
    told = ask(kind("x" * 100_000, hint="y" * 100_000), streaming=False)
    assert MESSAGE_LENGTH_MAX < len(str(told)) < MESSAGE_LENGTH_MAX + 200
    assert type(eau2_error(told)) is kind


def test_an_error_of_flight_goes_through():
    for error in (flight.FlightUnauthorizedError("no"), flight_error(errors.KeyMissing("no 'x'"))):
        with pytest.raises(type(error)) as caught, told_to_client():
            raise error
        assert caught.value is error


def test_what_no_server_of_ours_told_is_no_error_of_ours():
    for error in (
        flight.FlightServerError("x", b"{"),
        flight.FlightServerError("x", b"[1]"),
        pa.ArrowInvalid("x"),
        OSError(),
    ):
        assert eau2_error(error) is None
    assert eau2_error(flight.FlightServerError("x", b'{"error": "is_disk_full", "hint": ""}')) is None
