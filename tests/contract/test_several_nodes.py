"""A store of several nodes passes the contract of one, unchanged."""

import functools

import pytest
from tests.contract.store_contract import StoreContract

import eau2


@pytest.mark.slow
class TestThreeNodes(StoreContract):
    def make_opener(self, folder):
        return functools.partial(eau2.open, str(folder), nodes=3)


@pytest.mark.slow
@pytest.mark.long
class TestFiveNodes(StoreContract):
    def make_opener(self, folder):
        return functools.partial(eau2.open, str(folder), nodes=5)
