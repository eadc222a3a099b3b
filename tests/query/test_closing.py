"""A query that is running when its store is closed ends for who waits for it, however busy the engine is."""

import subprocess
import sys
import textwrap

import pytest

# In a process of its own: the engine's threads are busy with the join for minutes, and no other query gets one of them.
PROGRAM = """
    import os, sys, threading, time
    import eau2
    from eau2.errors import StoreClosed

    store = eau2.open(sys.argv[1])
    store.put("f", {"n": range(300_000)})
    query = store.sql("select sum(a.n * b.n) from f a, f b where a.n + b.n > 10")
    ended = []

    def ask():
        try:
            query.to_arrow()
        except StoreClosed:
            ended.append(time.monotonic())

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert not ended
    start = time.monotonic()
    store.close()
    for thread in threads:
        thread.join(60)
    print(len(ended), "ended after", max(ended) - start, flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_a_query_in_any_thread_ends_when_the_store_is_closed(tmp_path):
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "store")]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.startswith("3 ended")
