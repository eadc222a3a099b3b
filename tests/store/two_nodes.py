"""Two connections to one directory, for machines of rules that hold a node against a model."""

from __future__ import annotations

import tempfile

from hypothesis.stateful import RuleBasedStateMachine, initialize

from eau2.store.node import DirectoryNode


class TwoNodes(RuleBasedStateMachine):
    """The nodes, a dict of what should be under each key, and the last version of each."""

    @initialize()
    def open(self):
        self.place = tempfile.TemporaryDirectory()
        self.nodes = [DirectoryNode(self.place.name + "/n") for _ in range(2)]
        self.model, self.last = {}, {}

    def teardown(self):
        if hasattr(self, "nodes"):
            assert self.nodes[0].check().faults == ()
            for node in self.nodes:
                node.close()
            self.place.cleanup()
