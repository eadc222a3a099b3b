"""The frames queried last stay open: asking again decodes no manifest, maps no file and makes no engine table. So do
the queries asked last of them: asking one again plans nothing."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error
from eau2.query.source import Source
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from eau2.query.recipe import Recipe
    from eau2.store.nodes import Entry, Node

PLANS_MAX = 32  # which hold only frames that are open besides
PLAN_TEXT_MAX = 2_000  # characters
PLAN_FIELDS_MAX = 5_000  # in the schemas of all its steps, at most; some 100 bytes each
_TIME = re.compile(r"\b(?:now|today|current_\w+|localtime\w*)\b", re.IGNORECASE)
SOURCES_MAX = 8  # what was replaced or deleted meanwhile keeps its disk space until the next look: hence few


class OpenSources:
    """The sources of one node, by key: the latest SOURCES_MAX of them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._sources: OrderedDict[str, Source] = OrderedDict()
        self._generation = -1  # of the node when all of them were last known to be what is under their key
        self._plans: OrderedDict[str, Recipe] = OrderedDict()  # over sources that are all open

    def open(self, node: Node, key: str, entry: Entry) -> Source:
        """Return the frame that `entry` is, mapped. FileNotFoundError when a chunk is gone. 5 us when it is open."""
        self.drop_stale(node)
        with self._lock:
            found = self._sources.get(key)
            if found is not None and _is_current(found, node, entry.version):
                self._sources.move_to_end(key)
                return found
        manifest = Manifest.decode(entry.payload)
        source = Source(key, entry.version, manifest, node.map_frame(manifest, key=key), node)
        with self._lock:
            self._sources[key] = source
            self._sources.move_to_end(key)
            while len(self._sources) > SOURCES_MAX:
                self._sources.popitem(last=False)
            self._drop_plans()
        return source

    def drop_stale(self, node: Node) -> None:
        """Let go of frames that have been replaced or deleted, by any process. 0.3 us when nobody has written.

        Also of those of which nobody says whether they have been: what is wrong with them is for who asks for them, and
        not for who has just deleted something else.
        """
        generation = node.generation()
        with self._lock:
            if generation == self._generation or not self._sources:
                return
            held = dict(self._sources)
        try:
            entries = node.get_many(list(held))
        except Eau2Error:
            entries = {}
        with self._lock:
            for key, source in held.items():
                now = entries.get(key)
                if (now is None or now.version != source.version) and self._sources.get(key) is source:
                    del self._sources[key]
            self._generation = generation
            self._drop_plans()

    def plan(self, query: str) -> Recipe | None:
        """Return what `query` was planned as before, over frames that were open then. 1 us."""
        with self._lock:
            found = self._plans.get(query)
            if found is not None:
                self._plans.move_to_end(query)
            return found

    def keep_plan(self, query: str, recipe: Recipe) -> None:
        """Remember what `query` was planned as, as long as every frame that it reads stays open.

        Not what reads none, and not what may tell the time: that would stand still.
        """
        read = set(map(_read, recipe.reads))
        if not read or len(query) > PLAN_TEXT_MAX or _TIME.search(query):
            return
        with self._lock:
            if not read.issubset(self._sources.values()):
                return
        if _fields(recipe) > PLAN_FIELDS_MAX or recipe.tells_time():
            return
        with self._lock:
            self._plans[query] = recipe
            self._plans.move_to_end(query)
            while len(self._plans) > PLANS_MAX:
                self._plans.popitem(last=False)
            self._drop_plans()

    def clear(self) -> None:
        with self._lock:
            self._sources.clear()
            self._plans.clear()

    def _drop_plans(self) -> None:
        """Let go of plans over frames that are not open any more: they hold their disk space. Under the lock."""
        held = set(self._sources.values())
        for query in [query for query, plan in self._plans.items() if not held.issuperset(map(_read, plan.reads))]:
            del self._plans[query]


def _fields(recipe: Recipe) -> int:
    """How many fields the steps of its plan have together, at most: each may have those of all tables."""
    plan: str = recipe.planned.logical_plan().display_indent()
    widest = max(len(source.schema) for _, source in recipe.reads)
    return (plan.count("\n") + 1) * plan.count("TableScan:") * widest


def _read(read: tuple[str, Source]) -> Source:
    return read[1]


def _is_current(source: Source, node: Node, version: int) -> bool:
    """Whether `source` is that version, not damaged, and on the nodes that are live."""
    known = source.version == version and source.node is node and not source.was_corrupt
    return known and source.mapped.live == node.live()
