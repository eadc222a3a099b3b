"""A process that uses one cluster of this machine after the other, and outlives one that has ended.

Prints what is wrong. Two clusters, "one" and "two", are to run.
"""

from __future__ import annotations

import time

from tests.on_ray.soak import typed

import eau2
from eau2.errors import Eau2Error, InvalidOption, NodeUnavailable

RAY_WAITS_SECONDS = 60  # for a head, before it would end the process


def refused(work) -> Eau2Error | None:
    try:
        work()
    except Eau2Error as error:
        return error
    return None


def main() -> None:
    with eau2.open("ray:one") as store:
        store.put("x", b"1")
        if not isinstance(refused(lambda: eau2.open("ray:two")), InvalidOption):
            print("two at once")
    with eau2.open("ray:two") as store:
        store.put("x", b"2")
    with eau2.open("ray:one") as store:
        if store.get("x") != b"1":
            print("another's value")
        typed("down", "--name", "one")
        for pause in (0, RAY_WAITS_SECONDS + 15):
            time.sleep(pause)
            if not isinstance(refused(lambda: store.get("x")), NodeUnavailable):
                print("not refused")
    with eau2.open("ray:two") as store:
        if store.get("x") != b"2":
            print("lost")


if __name__ == "__main__":
    main()
