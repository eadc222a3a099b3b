"""How every node comes to know what every other says of itself, though each talks to a few only.

Pure: the clock and chance are arguments, and messages are values that somebody else carries. Each node has a `Gossip`,
which holds the newest report of each node. In each round it asks a few others at random:

    asking                          asked
    question()        ------------> asked(question): what the asking node lacks, and what the asked one lacks
    hear(news)        <------------
    lacking(wanted)   ------------> hear(news)

The first two tell both of both, so who was asked lately asks so many fewer: to carry a call costs a hundred times what
is done here. For the same reason a question brings what is most likely lacking, and the third is seldom needed.

A digest has a number for each node: how new its report is. So what both have does not travel, and what one has and the
other lacks does, whichever of them asked. What is heard of twice, late, or in another order changes nothing.

A report travels with its age, so clocks need not agree: an age is short by the time that messages took. Reports over
FORGET_SECONDS old are dropped, and not heard any more: a node that has left goes from everywhere, and does
not come back by way of one who had not forgotten it yet.

What figures mean (names, units, sentences) is ten times what they are, and the same on most nodes: it travels once, by
a name that is made of it.
"""

from __future__ import annotations

import json
import random
from array import array
from typing import TYPE_CHECKING, NamedTuple

import xxhash

from eau2.metrics.report import Metric, Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROUND_SECONDS = 1.0
PARTNERS = 2  # that each node asks in a round
FORGET_SECONDS = 300.0
NODES_MAX = 4096  # of which one node keeps reports
_FEW_NODES = 8  # of up to so many a question brings all that is new, some kB; else what is of who asks
_NEW_SECONDS = 3.0  # what was said longer ago has got around
_NODES_PER_SECOND = 100  # that say something new, of all nodes together: what each hears in a second is bounded

Meaning = tuple[tuple[str, str, str, str], ...]  # of each figure of a report: its name, unit, sentence and kind


class Digest(NamedTuple):
    """How new what somebody has is. What is not in it is older than everything."""

    numbers: Mapping[str, int]  # by node
    meanings: frozenset[str]  # that are known, by their names


class Said(NamedTuple):
    """A report as it travels."""

    node: str
    number: int
    age_seconds: float
    meaning: str
    values: bytes  # of doubles


class News(NamedTuple):
    """Reports that somebody lacks, and what they mean, as far as that is not known there."""

    reports: tuple[Said, ...]
    meanings: Mapping[str, Meaning]


class Question(NamedTuple):
    """What a node asks another in a round."""

    node: str  # that asks
    digest: Digest
    brought: tuple[Said, ...]  # what the other may lack


class Answer(NamedTuple):
    """What a digest comes to."""

    news: News
    wanted: Digest  # of what the asked node lacks: what it has of that


class _Heard(NamedTuple):
    number: int
    said: float  # by our clock
    meaning: str
    values: bytes


class Gossip:
    """What node `name` knows of all nodes. Not thread-safe.

    chance: all that is by chance comes from it; by default the same for the same name.
    started: grows each time that the node is started, as a clock does, so that it is newer than it was before.
    All times are seconds of one clock of the caller's, which only grows.
    """

    def __init__(self, name: str, *, chance: random.Random | None = None, started: int = 0) -> None:
        self.name = name
        self._chance = chance or random.Random(name)
        self._due = 0.0  # when this node is to say something new of itself
        self._number = started
        self._heard: dict[str, _Heard] = {}
        self._meanings: dict[str, Meaning] = {}
        self._asked_by: set[str] = set()  # since this node chose its partners last

    def __repr__(self) -> str:
        return f"<Gossip of {self.name}: {len(self._heard)} nodes>"

    # -- of this node -------------------------------------------------------------------------------------------------

    def is_due(self, now: float) -> bool:
        """Whether this node is to say something new of itself: each second, less often where there are many nodes."""
        return self.name not in self._heard or now >= self._due

    def say(self, metrics: Sequence[Metric], now: float, *, node: str = "") -> None:
        """Have `metrics` in place of what this node said before, or another `node` for which it speaks."""
        meaning = tuple((metric.name, metric.unit, metric.help, metric.kind) for metric in metrics)
        name = _named(meaning)
        self._meanings.setdefault(name, meaning)
        self._number += 1
        period = len(self._heard) / _NODES_PER_SECOND
        # A round may come a little early; and nodes that were started at once are not to speak at once for ever.
        self._due = now + (0.9 * ROUND_SECONDS if period <= ROUND_SECONDS else period * self._chance.uniform(0.5, 1.5))
        values = array("d", (metric.value for metric in metrics)).tobytes()
        self._heard[node or self.name] = _Heard(self._number, now, name, values)

    # -- rounds -------------------------------------------------------------------------------------------------------

    def partners(self, members: Iterable[str]) -> list[str]:
        """Return whom of `members` this node asks in this round: with those who have asked it since the last they are
        PARTNERS, or all; where there are many, at least one, or what is said would take a round more to get around."""
        asked_by, self._asked_by = self._asked_by, set()
        others = [name for name in members if name != self.name]
        least = int(len(others) >= _FEW_NODES)
        others = [name for name in others if name not in asked_by]
        return self._chance.sample(others, min(max(least, PARTNERS - len(asked_by)), len(others)))

    def question(self, now: float) -> Question:
        """Return what a partner is asked."""
        few = len(self._heard) <= _FEW_NODES
        new = [name for name, heard in self._heard.items() if now - heard.said <= _NEW_SECONDS]
        brought = [self._said(name, now) for name in new if few or name == self.name]
        return Question(self.name, self.digest(), tuple(brought))

    def asked(self, question: Question, now: float) -> Answer:
        """Hear what `question` brings; return what who asked lacks, and what is lacking here."""
        self._asked_by.add(question.node)
        self.hear(News(question.brought, {}), now)
        return self.answer(question.digest, now)

    def digest(self) -> Digest:
        """Return what is known here."""
        return Digest({name: heard.number for name, heard in self._heard.items()}, frozenset(self._meanings))

    def answer(self, digest: Digest, now: float) -> Answer:
        """Return what whoever sent `digest` lacks, and what is lacking here."""
        heard = self._heard
        wanted = {}
        for name, number in digest.numbers.items():
            own = heard.get(name)
            if own is None or own.number < number:
                wanted[name] = -1 if own is None else own.number
        return Answer(self.news(digest, now), Digest(wanted, frozenset(self._meanings)))

    def wants(self, answer: Answer) -> bool:
        """Whether who gave `answer` lacks anything."""
        return bool(answer.wanted.numbers)

    def lacking(self, wanted: Digest, now: float) -> News:
        """Return of the nodes in `wanted` what is newer here."""
        return self._told_of(wanted.numbers, wanted, now)

    def news(self, digest: Digest, now: float) -> News:
        """Return of all nodes what is newer here than in `digest`."""
        return self._told_of(self._heard, digest, now)

    def hear(self, news: News, now: float) -> None:
        """Have what is new in `news`."""
        for said in news.reports:
            known = self._heard.get(said.node)
            if said.age_seconds >= FORGET_SECONDS or (known is not None and known.number >= said.number):
                continue
            meaning = news.meanings.get(said.meaning) or self._meanings.get(said.meaning)
            if meaning is None or (known is None and len(self._heard) >= NODES_MAX):
                continue  # it is asked for again in another round, with the meanings that are known then
            if said.node == self.name:  # of before it was started, with a clock that was ahead
                self._number = max(self._number, said.number)
                continue
            self._meanings[said.meaning] = meaning
            self._heard[said.node] = _Heard(said.number, now - said.age_seconds, said.meaning, said.values)

    def forget(self, now: float) -> None:
        """Drop what is too old: of nodes that have left, or cannot be reached."""
        for name in [name for name, heard in self._heard.items() if now - heard.said >= FORGET_SECONDS]:
            del self._heard[name]
        used = {heard.meaning for heard in self._heard.values()}
        for name in self._meanings.keys() - used:
            del self._meanings[name]

    # -- what is known ------------------------------------------------------------------------------------------------

    def reports(self, now: float) -> tuple[Report, ...]:
        """Return the newest report of each node, in natural order of names. 10 us each."""
        names = sorted(self._heard, key=lambda name: (len(name), name))
        return tuple(self._report(name, self._heard[name], now) for name in names)

    # -- private ------------------------------------------------------------------------------------------------------

    def _report(self, name: str, heard: _Heard, now: float) -> Report:
        values = array("d", heard.values)
        metrics = tuple(
            Metric(metric, value, unit, help, kind)
            for (metric, unit, help, kind), value in zip(self._meanings[heard.meaning], values, strict=True)
        )
        return Report(name, max(0.0, now - heard.said), metrics)

    def _said(self, name: str, now: float) -> Said:
        heard = self._heard[name]
        return Said(name, heard.number, max(0.0, now - heard.said), heard.meaning, heard.values)

    def _told_of(self, names: Iterable[str], than: Digest, now: float) -> News:
        reports = []
        numbers = than.numbers
        for name in names:
            heard = self._heard.get(name)
            if heard is not None and heard.number > numbers.get(name, -1):
                reports.append(self._said(name, now))
        lacked = {said.meaning for said in reports} - than.meanings
        return News(tuple(reports), {name: self._meanings[name] for name in lacked})


def exchange(asking: Gossip, asked: Gossip, now: float) -> None:
    """Have both know what either does: what the calls of one round come to where they cannot fail."""
    answer = asked.asked(asking.question(now), now)
    asking.hear(answer.news, now)
    if asking.wants(answer):
        asked.hear(asking.lacking(answer.wanted, now), now)


def _named(meaning: Meaning) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(meaning).encode())
