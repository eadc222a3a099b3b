"""Trivial: one frame, stored by one node and read by all. `eau2 run demos/trivial.py --nodes 4`

Every node runs `run` at the same time. Node 0 stores the numbers 0, 1, 2, ...; then each node sums the rows that are
its own, and node 0 subtracts all of that from the sum: nothing is left, on however many nodes.
"""

import numpy as np
import pyarrow.compute as pc

import eau2


class Trivial(eau2.Application):
    numbers: int = 1_000_000  # a parameter: --param numbers=10

    def run(self) -> int | None:
        if self.this_node == 0:
            self.store.put("triv", {"number": np.arange(self.numbers)})
        self.barrier("stored")  # nobody goes on before all are here

        frame = self.store.frame("triv")  # mapped: nothing is copied, and nothing is read yet
        own = sum(pc.sum(batch["number"], min_count=0).as_py() for batch in self.local(frame))
        self.store.put(f"triv-sum-{self.this_node}", str(own).encode())
        self.barrier("summed")

        if self.this_node != 0:
            return None
        left = sum(range(self.numbers))
        for node in range(self.node_count):
            left -= int(self.store.get(f"triv-sum-{node}"))
        print(f"element 1 is {frame.value('number', row=1)}, and {left} is left of the sum")
        return left
