"""A query that is running when its store is closed ends for who waits for it, however busy the engine is."""

import threading
import time

import pytest

import eau2
from eau2.errors import StoreClosed


@pytest.mark.slow
def test_a_query_in_any_thread_ends_at_once_when_the_store_is_closed(tmp_path):
    store = eau2.open(tmp_path / "s")
    store.put("f", {"n": range(300_000)})
    query = store.sql("select sum(a.n * b.n) from f a, f b where a.n + b.n > 10")
    failures = []

    def ask():
        try:
            query.to_arrow()
        except StoreClosed as error:
            failures.append((error, time.monotonic()))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    start = time.monotonic()
    store.close()
    for thread in threads:
        thread.join(60)
    assert len(failures) == 3
    assert max(moment for _, moment in failures) - start < 60
    with pytest.raises(StoreClosed):
        query.to_arrow()
