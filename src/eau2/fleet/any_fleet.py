"""The seam to all nodes as an operator has them: what is run on each, and what was. Of a cluster (`remote/fleet.py`),
or of one behind a server (`served/fleet.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.fleet.files import Parts
    from eau2.fleet.journal import Record
    from eau2.fleet.kept import Piece
    from eau2.fleet.refusals import Refusal
    from eau2.fleet.run import Ended, Output, Run

    Hear = Callable[[Output | Ended], None]


@dataclass(slots=True)
class Audited:
    """A run, as those of the asked nodes say that have begun it. A record without a state: it runs there."""

    record: Record  # as one of them has it
    on: dict[str, Record] = field(default_factory=dict)  # by node

    @property
    def is_running(self) -> bool:
        return any(one.state is None for one in self.on.values())


class Written(NamedTuple):
    """What a run has written on one node, as far as that is kept there: see `kept.py`."""

    record: Record
    out: list[Piece]
    err: list[Piece]


class AnyFleet(Protocol):
    """All nodes. Thread-safe. NodeUnavailable when they cannot be asked; StoreClosed after the store is closed."""

    def allowed(self) -> bool:
        """Whether they run anything: whether the cluster was started so."""

    def admit(self, run: Run) -> None:
        """Raise NotAllowed, and have it noted, unless they run anything."""

    def names(self, wanted: Sequence[str] = ()) -> list[str]:
        """Return the names of all members, or of those `wanted`, each once. InvalidOption when there is no such
        node."""

    def run(self, run: Run, names: Sequence[str], hear: Hear, parts: Parts | None = None) -> list[Ended]:
        """Have `names` do `run`, all at once; return what came of it on each, in order of name.

        hear: is told what commands write, and what came of each, in this thread; what it raises ends the run
        everywhere, as does Ctrl-C. parts: of the files that are pushed. NotAllowed.
        """

    def roll(self, run: Run, names: Sequence[str], hear: Hear, parts: Parts | None = None) -> tuple[list[Ended], bool]:
        """As `run`, but one node after the other, in the order of `names`: see `rolled`. Return what came of it on
        each, and whether all were well."""

    def cancel(self, run_id: str) -> None:
        """Have a run ended on every node that answers, whoever has begun it, and begun on none of them any more."""

    def audit(self, limit: int) -> list[Audited]:
        """Return the `limit` newest runs that the nodes which answer know of, the newest first."""

    def one(self, run_id: str) -> Audited | None:
        """Return a run; None when no node that answers knows of it."""

    def refusals(self, limit: int) -> list[Refusal]:
        """Return the `limit` newest attempts that were refused, likewise."""

    def refuse(self, refusal: Refusal) -> None:
        """Have some nodes note that something was refused; nothing when none answers soon."""

    def written(self, run_id: str, node: str, starts: tuple[int, int] = (0, 0)) -> Written | None:
        """Return what a run has written on `node`, from these bytes of its two streams on; None when the node does not
        know of it. NodeUnavailable when it does not answer; InvalidOption for what is no id."""
