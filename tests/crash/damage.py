"""Damage, done on purpose."""

import os


def flip(path, position: int, bit: int = 0) -> None:
    """Turn one bit of the file at `path`, in place."""
    with path.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, position)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
