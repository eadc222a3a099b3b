"""Before and after what drivers do: the data of Linus is put; then everything is whole, and every key is read.

python -m tests.on_ray.settle ADDRESS begin
python -m tests.on_ray.settle ADDRESS end FOLDER      prints what is wrong, a JSON list
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path

from tests.on_ray import linus
from tests.on_ray.load import Client, opened
from tests.on_ray.log import Log, Told

import eau2

WHOLE_SECONDS = 120.0


def whole(store: eau2.Store) -> list[str]:
    """Wait until every copy is where it belongs, and right; return what is not."""
    deadline = time.monotonic() + WHOLE_SECONDS
    while True:
        try:
            faults = list(store.check().faults)
        except eau2.NodeUnavailable as error:
            faults = [str(error)]
        if not faults:
            return []
        if time.monotonic() > deadline:
            return [f"not whole after {WHOLE_SECONDS:g} s: {fault}" for fault in faults[:5]]
        time.sleep(1.0)


def read_all(store: eau2.Store, folder: Path) -> None:
    """Read every key that was ever written: what was acknowledged must be there."""
    told = Told.of(folder.glob("*.log"))
    name = f"end-{secrets.token_hex(3)}"
    log = Log(folder / f"{name}.log")
    client = Client(store, log, name)
    for key in sorted({part.key for operation in told.operations for part in operation.parts}):
        client.read(key)
    client.linus()
    log.close()


def main() -> None:
    address, what, *folders = sys.argv[1:]
    with opened(address) as store:
        if what == "begin":
            linus.put_frames(store)
        else:
            wrong = whole(store)
            read_all(store, Path(folders[0]))
            print(json.dumps(wrong))


if __name__ == "__main__":
    main()
