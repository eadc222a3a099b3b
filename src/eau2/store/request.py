"""What one caller asks the writer to write, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from eau2.store import recent
from eau2.store.nodes import Kind
from eau2.store.puts import moves_files, payload_bytes, plain
from eau2.values.key import MARK

if TYPE_CHECKING:
    from eau2.errors import Eau2Error

Apply = Callable[[Sequence[Any]], "list[int | Eau2Error]"]


class Request:
    """The writes of one caller, how they are applied (None: as `Changes.write` does), and what became of them."""

    __slots__ = ("alone", "apply", "done", "failure", "outcomes", "undoes", "writes")

    def __init__(self, writes: Sequence[Any], apply: Apply | None, alone: bool, undoes: bool) -> None:
        self.writes = writes  # Write, or Record where `apply` takes these
        self.apply = apply
        self.outcomes: list[int | Eau2Error] = []
        self.failure: BaseException | None = None
        self.done = False
        self.undoes = undoes
        # It moves files: its failure must not meet, nor be met by, the writes of others.
        self.alone = alone or moves_files(writes)

    @property
    def bytes(self) -> int:
        """How large the payloads are."""
        return payload_bytes(self.writes)

    @property
    def makes_room(self) -> bool:
        """Whether it is only to delete, or to undo, or says of a cluster's own what is to be deleted."""
        return self.undoes or all(
            write.kind == Kind.DELETED or (write.kind == Kind.BYTES and write.key.startswith(MARK))
            for write in self.writes
        )

    @property
    def in_front(self) -> bool:
        """Whether it only puts plain values, so many that they may stay in front of the tree."""
        return self.apply is None and len(self.writes) >= recent.BATCH_MIN and plain(self.writes) is not None
