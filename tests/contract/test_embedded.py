"""The directory store passes the contract, at both flush levels."""

import functools

import pytest
from tests.contract.store_contract import StoreContract

import eau2


class TestEmbedded(StoreContract):
    def make_opener(self, folder):
        return functools.partial(eau2.open, str(folder))


@pytest.mark.slow
@pytest.mark.long
class TestEmbeddedFlushedToTheMedium(StoreContract):
    def make_opener(self, folder):
        return functools.partial(eau2.open, str(folder), flush="power")
