"""A driver that has a little of everything to show on the page: it puts, gets and queries until it is told to stop.

python -m tests.on_ray.traffic ADDRESS

It prints `ready` when the frames are there, and goes on through whatever happens to the nodes.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from tests.on_ray.load import opened

from eau2.errors import ClusterUnavailable, NodeUnavailable, OutcomeUnknown
from eau2.ingest.writer import FrameWriter

if TYPE_CHECKING:
    import eau2

THREADS = 2
PAUSE_SECONDS = 0.02
CHUNK_BYTES = 1 << 19  # so that frames have chunks on all nodes
TRIPS, ORDERS = 400_000, 120_000
ZONES = ["Harbour", "Old Town", "University", "Airport", "Stadium", "Market", "North Shore", "Mill Quarter"]
ASKED = (
    'select zone, count(*) as trips, avg(fare) as fare from "trips/2026-11" group by zone order by trips desc',
    'select vendor, sum(fare + tip) as earned from "trips/2026-11" where distance_km > 5 group by vendor',
    'select t.zone, count(*) as n from "trips/2026-11" t join "trips/2026-10" o on t.id = o.id group by t.zone',
    'select status, count(*) as orders, sum(amount) as amount from "shop/orders" group by status',
)


def trips(seed: int, rows: int = TRIPS) -> pa.Table:
    chance = np.random.default_rng(seed)
    minutes = np.sort(chance.integers(0, 30 * 24 * 60, rows))
    distance = chance.gamma(2.0, 2.4, rows).round(2)
    return pa.table(
        {
            "id": np.arange(rows),
            "began": pa.array(np.datetime64("2026-11-01T00:00", "s") + minutes * np.timedelta64(60, "s")),
            "vendor": pa.array(["Blue", "City", "Green"]).take(chance.integers(0, 3, rows)),
            "zone": pa.array(ZONES).take(chance.integers(0, len(ZONES), rows)),
            "passengers": pa.array(chance.integers(1, 6, rows), mask=chance.random(rows) < 0.01),
            "distance_km": distance,
            "fare": (3.2 + 1.9 * distance).round(2),
            "tip": chance.choice([0.0, 1.0, 2.0, 5.0], rows),
        }
    )


def orders() -> pa.Table:
    chance = np.random.default_rng(7)
    status = pa.array(["paid", "sent", "returned"]).take(chance.choice(3, ORDERS, p=[0.3, 0.65, 0.05]))
    return pa.table({"order": np.arange(ORDERS), "status": status, "amount": chance.gamma(3.0, 17.0, ORDERS).round(2)})


def fill(store: eau2.Store) -> None:
    store.put("trips/2026-10", trips(10))
    store.put("trips/2026-11", trips(11))
    store.put("shop/orders", orders())
    store.put("config/prices", b'{"base": 3.2, "per_km": 1.9}')
    store.put_many({f"sessions/{number:04}": b"open" * 20 for number in range(500)})


def go_on(store: eau2.Store, chance: random.Random, ended: threading.Event) -> None:
    asks_at = time.monotonic()
    while not ended.wait(chance.expovariate(1 / PAUSE_SECONDS)):
        key = f"sessions/{chance.randrange(500):04}"
        try:
            if chance.random() < 0.3:
                store.put(key, chance.randbytes(100))
            else:
                assert store.get(key)
            if time.monotonic() > asks_at:
                asks_at = time.monotonic() + 2.0
                assert store.sql(chance.choice(ASKED)).to_arrow().num_rows
        except (NodeUnavailable, ClusterUnavailable, OutcomeUnknown) as error:
            print(f"{type(error).__name__}: {error}", flush=True)


def main() -> None:
    FrameWriter.__init__.__kwdefaults__["chunk_bytes"] = CHUNK_BYTES
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with opened(sys.argv[1], ended) as store:
        fill(store)
        print("ready", flush=True)
        threads = [threading.Thread(target=go_on, args=(store, random.Random(n), ended)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
