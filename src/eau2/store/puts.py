"""Many puts of bytes at once, as the keys and values that they came as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eau2.store.nodes import Kind, Write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.store.nodes import Record

_BYTES = int(Kind.BYTES)


class Puts(Sequence[Write]):
    """Puts of bytes, each under another key, whatever is there. They are made to Write only where somebody looks at
    them so: on the node of this process nobody does, and that is half of what one of many puts costs."""

    __slots__ = ("_made", "values")

    def __init__(self, values: dict[str, bytes]) -> None:
        self.values = values
        self._made: list[Write] | None = None

    @classmethod
    def of(cls, values: dict[str, Any], bytes_max: int) -> Puts | None:
        """Return `values` as puts if all are bytes, of at most `bytes_max`; None if not, or of none. 0.05 us each."""
        if set(map(type, values.values())) == {bytes} and max(map(len, values.values())) <= bytes_max:
            return cls(values)
        return None

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Write]:
        return iter(self._writes())

    def __getitem__(self, index: Any) -> Any:
        return self._writes()[index]

    def _writes(self) -> list[Write]:
        if self._made is None:
            self._made = [Write(key, Kind.BYTES, value) for key, value in self.values.items()]
        return self._made


def plain(writes: Sequence[Write]) -> dict[str, bytes] | None:
    """Return keys and values if `writes` are puts of bytes under different keys, whatever is there; else None."""
    if isinstance(writes, Puts):
        return writes.values
    values = {write.key: write.payload for write in writes}
    are_plain = len(values) == len(writes) and all(write.kind == _BYTES and not write.expect for write in writes)
    return values if are_plain else None


def payload_bytes(writes: Sequence[Write | Record]) -> int:
    """Return how large the payloads are. 0.03 us for each of Puts."""
    if isinstance(writes, Puts):
        return sum(map(len, writes.values.values()))
    return len(writes[0].payload) if len(writes) == 1 else sum(len(write.payload) for write in writes)


def moves_files(writes: Sequence[Write | Record]) -> bool:
    """Whether one of `writes` publishes chunks. Nothing for Puts."""
    if isinstance(writes, Puts):
        return False
    return bool(writes[0].chunks) if len(writes) == 1 else any(write.chunks for write in writes)
