from contextlib import ExitStack

import pyarrow as pa
import pytest
from tests.doors.conftest import Served

import eau2
from eau2.doors.server import Doors
from eau2.doors.tokens import Role, Tokens

PAGE = Doors(crud_port=None, redis_port=None, udp_port=None, http_port=0, page=True)
READ, WRITE, ADMIN = "a token that reads", "a token that writes", "a token that may all"
TOKENS = Tokens([(READ, Role.READ), (WRITE, Role.WRITE), (ADMIN, Role.ADMIN)])
TRIPS = pa.table({"id": range(3000), "vendor": [f"v{each % 3}" for each in range(3000)]})


@pytest.fixture(params=[1, 3])
def nodes(request):
    return request.param


@pytest.fixture
def watched(tmp_path, nodes):
    """A store with a page, of one node and of three."""
    with ExitStack() as stack:
        served = Served(stack.enter_context(eau2.open(tmp_path / "store", nodes=nodes)), stack)
        served.store.put("trips", TRIPS)
        yield served.open(PAGE)


@pytest.fixture
def guarded(tmp_path):
    """One that asks for tokens."""
    with ExitStack() as stack:
        served = Served(stack.enter_context(eau2.open(tmp_path / "store")), stack)
        served.store.put("trips", TRIPS)
        yield served.open(PAGE, tokens=TOKENS)
