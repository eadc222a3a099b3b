"""A cluster on Ray behind a server passes the contract too: of its clients only the server has Ray."""

import functools

import pytest
from tests.contract.store_contract import StoreContract
from tests.served.serving import FLIGHT_ONLY, address_of

import eau2
from eau2.doors.server import Server


@pytest.mark.slow
@pytest.mark.long
class TestServedCluster(StoreContract):
    often = 12

    @pytest.fixture
    def opener(self, ray_cluster):
        with ray_cluster.opener("first")() as store, Server(store, FLIGHT_ONLY) as server:
            yield functools.partial(eau2.open, address_of(server))

    @pytest.fixture
    def second_opener(self, ray_cluster):
        with ray_cluster.opener("second")() as store, Server(store, FLIGHT_ONLY) as server:
            yield functools.partial(eau2.open, address_of(server))
