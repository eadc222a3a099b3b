"""One node after the other, each only when the one before it is well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.fleet.run import Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def rolled(
    names: Sequence[str], run: Callable[[str], Ended], why_unwell: Callable[[str], str]
) -> Iterator[tuple[Ended, bool]]:
    """Yield for each of `names`, in order, what `run` came to there and whether that is well; after the first that is
    not, all others are skipped.

    A node is well when it did what it was to do and then takes part in the cluster, as `why_unwell` says with "": that
    may wait for it. A run that is lost, because it ended its own node, is well when the node is back. A node that is
    not well before is not touched.
    """
    stopped = ""
    for name in names:
        why = stopped or _before(name, why_unwell)
        if why:
            yield Ended(name, "skipped", why=why), False
            stopped = why
            continue
        ended = run(name)
        if not (ended.is_good or ended.state == "lost"):
            stopped = f"{name}: {ended.state}" + (f" with {ended.code}" if ended.code is not None else "")
            yield ended, False
            continue
        unwell = why_unwell(name)
        if unwell:
            stopped = f"{name} is not well: {unwell}"
            ended = ended._replace(why=unwell)
        yield ended, not unwell


def _before(name: str, why_unwell: Callable[[str], str]) -> str:
    unwell = why_unwell(name)
    return f"{name} is not well: {unwell}" if unwell else ""
