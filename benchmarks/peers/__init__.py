"""Other engines that run on several nodes, each in a process and an environment of its own: none of eau2 is imported.

`python -m benchmarks.peers.NAME FOLDER` takes names of questions from its input, a line each, and answers each with a
line of JSON: {"seconds": how long it took to have the answer here as an Arrow table, "fingerprint": ...}.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.questions import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

NODES = 4


def serve(answer: Callable[[str], pa.Table]) -> None:
    """Answer questions until there are no more."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        try:
            table = answer(line.strip())
        except Exception as error:  # one that an engine cannot answer is a result
            print(json.dumps({"error": f"{type(error).__name__}: {str(error)[:300]}"}), flush=True)
            continue
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "fingerprint": fingerprint(table)}), flush=True)
