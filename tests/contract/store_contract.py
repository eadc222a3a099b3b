"""One suite of behaviours that every kind of store passes.

A kind of store inherits `StoreContract` and gives `make_opener`: from a folder, a function without arguments that opens
the same store each time it is called, in any process (so it can be pickled). Nothing here looks behind the verbs.
"""

from __future__ import annotations

import gc

import pytest
from tests.contract.bytes_contract import BytesContract
from tests.contract.frames_contract import FramesContract
from tests.contract.sharing_contract import SharingContract


class StoreContract(BytesContract, FramesContract, SharingContract):
    def make_opener(self, folder):
        raise NotImplementedError

    @pytest.fixture
    def opener(self, tmp_path):
        return self.make_opener(tmp_path / "store")

    @pytest.fixture
    def second_opener(self, tmp_path):
        return self.make_opener(tmp_path / "second store")

    @pytest.fixture
    def store(self, opener):
        with opener() as store:
            yield store
        gc.collect()
