"""Demo: a producer, a counter and a summarizer, who know of each other only the names of what they put.

`eau2 run demos/demo.py --nodes 3` gives each of them a node. On fewer nodes one node plays several parts, and on more
some have none: the result is the same.
"""

import numpy as np
import pyarrow.compute as pc

import eau2


class Demo(eau2.Application):
    numbers: int = 100_000
    patience_seconds: float = 60.0  # how long one waits for what another is to put

    def run(self) -> list[str | None]:
        if self.this_node == 0:
            self.store.delete_many(["main", "ck", "verif"])  # of an earlier run: they would be taken for this one's
        self.barrier("begin")
        parts = [self.produce, self.count, self.summarize]
        return [part() for number, part in enumerate(parts) if number % self.node_count == self.this_node]

    def produce(self) -> None:
        numbers = np.arange(self.numbers, dtype=float)
        self.store.put("main", {"number": numbers})
        self.put_number("ck", numbers.sum())

    def count(self) -> None:
        frame = self.store.wait("main", timeout_seconds=self.patience_seconds)  # wakes as soon as it is put
        self.put_number("verif", sum(pc.sum(batch["number"], min_count=0).as_py() for batch in frame.batches()))

    def summarize(self) -> str:
        outcome = "SUCCESS" if self.wait_number("verif") == self.wait_number("ck") else "FAILURE"
        print(outcome)
        return outcome

    def put_number(self, key: str, number: float) -> None:
        self.store.put(key, repr(float(number)).encode())  # repr() of a float reads back as the same float

    def wait_number(self, key: str) -> float:
        return float(self.store.wait(key, timeout_seconds=self.patience_seconds))
