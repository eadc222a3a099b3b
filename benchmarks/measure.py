"""Fair figures on a machine that may be busy: interleaved runs, medians, and how much others used the processors."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RUNS = 5  # after one warm-up
QUICK_RUNS = 2
OTHER_CORES_MAX = 0.3  # processors that others may use on average before a measurement is taken again
TRIES_MAX = 2


def quick() -> bool:
    """Whether sizes are to be small: a test of the benchmarks, whose figures mean little. Set by `--quick`."""
    return os.environ.get("EAU2_BENCH_QUICK") == "1"


def sized(full: int, small: int) -> int:
    """`full`, or `small` when quick."""
    return small if quick() else full


def scratch() -> str:
    """The directory in which the benchmarks make their temporary directories; EAU2_BENCH_DIR, or beside the sources.

    Not /tmp, which may be memory: what is measured is a disk.
    """
    path = os.environ.get("EAU2_BENCH_DIR") or os.path.join(os.path.dirname(__file__), "..", ".bench")
    os.makedirs(path, exist_ok=True)
    return os.path.abspath(path)


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of several runs of one thing."""

    runs: tuple[float, ...]
    other_cores: float  # processors that neither this process nor its children used, on average meanwhile

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def figures(self) -> dict[str, float]:
        return {
            "seconds": self.median,
            "lowest": min(self.runs),
            "highest": max(self.runs),
            "other_cores": round(self.other_cores, 2),
        }


def interleaved(
    work: Mapping[str, Callable[[], object]],
    *,
    before: Callable[[str], object] | None = None,
) -> dict[str, Timing]:
    """Run every function of `work` in turn, RUNS + 1 times round; return their times without the first round.

    Every other round goes backwards: who comes after whom matters, where one leaves memory that the next one takes.

    A function that returns a float has measured itself, in seconds. `before(name)` is called before each run and is not
    counted. When others used over OTHER_CORES_MAX processors meanwhile, all is taken again once, and the quieter kept.
    """
    best: dict[str, Timing] = {}
    for _ in range(1 if quick() else TRIES_MAX):
        busy = Others()
        times = _rounds(work, sized(RUNS, QUICK_RUNS), before)
        other_cores = busy.cores()
        if not best or other_cores < next(iter(best.values())).other_cores:
            best = {name: Timing(tuple(seconds[1:]), other_cores) for name, seconds in times.items()}
        if other_cores <= OTHER_CORES_MAX:
            break
    return best


def _rounds(
    work: Mapping[str, Callable[[], object]], runs: int, before: Callable[[str], object] | None
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(runs + 1):
        for name, function in list(work.items())[:: -1 if turn % 2 else 1]:
            if before is not None:
                before(name)
            start = time.perf_counter()
            own = function()
            seconds = time.perf_counter() - start
            times[name].append(own if isinstance(own, float) else seconds)
            del own  # here: freed when the next one's result takes its place, it would count as the next one's time
    return times


def loop_milliseconds() -> float:
    """Processor time of a fixed loop: the same on a quiet machine, more when others share the core or its caches."""
    times = []
    for _ in range(3):
        start, total = time.thread_time(), 0
        for number in range(300_000):
            total += number
        times.append(time.thread_time() - start)
    return min(times) * 1e3


class Others:
    """Processors that others use from now on: the machine's busy time less that of this process and its children."""

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def cores(self) -> float:
        busy, own = _busy_seconds() - self._busy, _own_seconds() - self._own
        return max(0.0, busy - own) / max(time.monotonic() - self._wall, 1e-9)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _own_seconds() -> float:
    me = psutil.Process()
    own = me.cpu_times()
    seconds = own.user + own.system + own.children_user + own.children_system
    for child in {*me.children(recursive=True), *of_our_clusters()}:
        try:
            times = child.cpu_times()
        except psutil.Error:  # it has ended meanwhile, and is in children_user once it was waited for
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return float(seconds)


def of_our_clusters() -> list[psutil.Process]:
    """The processes of clusters that were started with an EAU2_HOME in `scratch()`: they are no children."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("EAU2_HOME", "").startswith(scratch()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def percentile(values: list[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def target(
    what: str, value: float, *, at_least: float | None = None, at_most: float | None = None, unit: str = ""
) -> dict[str, object]:
    """What was aimed at, and whether `value` meets it. Give one of the bounds."""
    assert (at_least is None) != (at_most is None), "give one bound"
    bound = at_least if at_most is None else at_most
    assert bound is not None
    met = value >= bound if at_most is None else value <= bound
    word = "at least" if at_most is None else "at most"
    return {"what": what, "value": value, "bound": word, "target": bound, "unit": unit, "met": bool(met)}


def child(module: str, *arguments: object, timeout_seconds: float = 300) -> str:
    """Run `python -m module arguments` in a fresh process; return what it printed. Its errors go to ours."""
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout_seconds)
    return done.stdout
