"""A store behind a server passes the contract of one in a directory, unchanged."""

import functools

import pytest
from tests.contract.store_contract import StoreContract
from tests.served.serving import serving

import eau2


@pytest.mark.slow
class TestServedDirectory(StoreContract):
    often = 25

    @pytest.fixture
    def opener(self, folder):
        with serving(folder / "store") as address:
            yield functools.partial(eau2.open, address)

    @pytest.fixture
    def second_opener(self, folder):
        with serving(folder / "second store") as address:
            yield functools.partial(eau2.open, address)
