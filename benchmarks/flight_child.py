"""A Flight server of nothing but pyarrow, which keeps the table that it is given in memory. Ends with its input."""

from __future__ import annotations

import sys
from typing import Any

from pyarrow import flight


class Bare(flight.FlightServerBase):
    """Keeps one table."""

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self.table = reader.read_all()

    def do_get(self, context: Any, ticket: Any) -> flight.RecordBatchStream:
        return flight.RecordBatchStream(self.table)


def main() -> None:
    with Bare(("127.0.0.1", 0)) as server:
        print(server.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
