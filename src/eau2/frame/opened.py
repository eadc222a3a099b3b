"""The frames queried last stay open: asking again decodes no manifest, maps no file and makes no engine table."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error
from eau2.query.source import Source
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from eau2.store.nodes import Entry, Node

SOURCES_MAX = 8  # what was replaced or deleted meanwhile keeps its disk space until the next look: hence few


class OpenSources:
    """The sources of one node, by key: the latest SOURCES_MAX of them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both below
        self._sources: OrderedDict[str, Source] = OrderedDict()
        self._generation = -1  # of the node when all of them were last known to be what is under their key

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

    def clear(self) -> None:
        with self._lock:
            self._sources.clear()


def _is_current(source: Source, node: Node, version: int) -> bool:
    """Whether `source` is that version, not damaged, and on the nodes that are live."""
    known = source.version == version and source.node is node and not source.was_corrupt
    return known and source.mapped.live == node.live()
