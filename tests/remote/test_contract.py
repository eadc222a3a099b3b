"""A store whose nodes are processes of their own passes the contract of one in a directory, unchanged."""

import pytest
from tests.contract.store_contract import StoreContract
from tests.remote.clusters import Cluster


class Remote(StoreContract):
    nodes = 1
    often = 25

    @pytest.fixture
    def clusters(self):
        """What a test has started, by its folder."""
        found = {}
        yield found
        for cluster in found.values():
            cluster.__exit__()

    @pytest.fixture
    def opener(self, folder, clusters):
        return self.cluster(clusters, folder / "store").opener()

    @pytest.fixture
    def second_opener(self, folder, clusters):
        return self.cluster(clusters, folder / "second store").opener()

    def cluster(self, clusters, folder):
        if folder not in clusters:
            clusters[folder] = Cluster(folder, [f"node-{number}" for number in range(self.nodes)])
        return clusters[folder]


@pytest.mark.slow
@pytest.mark.long  # make test has three machines of Ray
class TestOneRemoteNode(Remote):
    nodes = 1


@pytest.mark.slow
@pytest.mark.long
class TestThreeRemoteNodes(Remote):
    nodes = 3
