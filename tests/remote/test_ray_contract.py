"""A store on a real Ray cluster of three machines passes the contract of one in a directory, unchanged."""

import pytest
from tests.contract.store_contract import StoreContract


@pytest.mark.slow
class TestThreeMachines(StoreContract):
    often = 12

    @pytest.fixture
    def opener(self, ray_cluster):
        return ray_cluster.opener("first")

    @pytest.fixture
    def second_opener(self, ray_cluster):
        return ray_cluster.opener("second")
