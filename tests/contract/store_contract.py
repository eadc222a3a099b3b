"""One suite of behaviours that every kind of store passes.

A kind of store inherits `StoreContract` and gives `make_opener`: from a folder, a function without arguments that opens
the same store each time it is called, in any process (so it can be pickled). Nothing here looks behind the verbs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.contract.bytes_contract import BytesContract
from tests.contract.frames_contract import FramesContract
from tests.contract.metrics_contract import MetricsContract
from tests.contract.sharing_contract import SharingContract
from tests.folders import fast_folder


class StoreContract(BytesContract, FramesContract, MetricsContract, SharingContract):
    def make_opener(self, folder):
        raise NotImplementedError

    @pytest.fixture
    def folder(self):
        """Where stores are made: in memory when there is much, as hundreds are made. tests/crash uses the disk."""
        with tempfile.TemporaryDirectory(prefix="eau2-contract-", dir=fast_folder()) as folder:
            yield Path(folder)

    @pytest.fixture
    def opener(self, folder):
        return self.make_opener(folder / "store")

    @pytest.fixture
    def second_opener(self, folder):
        return self.make_opener(folder / "second store")

    @pytest.fixture
    def store(self, opener):
        with opener() as store:
            yield store
