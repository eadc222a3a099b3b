"""WordCount: every node counts the words of its own rows, and node 0 adds up.

    eau2 run demos/wordcount.py --nodes 4                           # a small text of its own
    eau2 run demos/wordcount.py --nodes 4 --param file=book.txt

Only counts travel between nodes, a row for each different word. Words are what C's isspace leaves between them; case
and punctuation are kept, and bytes that are not UTF-8 are shown as \\xNN.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

import eau2

BLOCK_BYTES = 16 << 20
OWN_TEXT = b" ".join(b"word%d" % (number * number % 97) for number in range(100_000))  # 49 different words


class WordCount(eau2.Application):
    file: Path | None = None
    patience_seconds: float = 3600.0  # how long node 0 waits for the others' counts

    def run(self) -> int | None:
        if self.this_node == 0:
            self.store.delete_many(self.store.keys("wc-map-"))  # of an earlier run: they would be taken for this one's
            with io.BytesIO(OWN_TEXT) if self.file is None else self.file.open("rb") as text:
                self.store.put("wc-words", words(text))  # its chunks are spread over the nodes
        self.barrier("loaded", timeout_seconds=self.patience_seconds)

        own = [counted(batch) for batch in self.local(self.store.frame("wc-words"))]
        self.store.put(f"wc-map-{self.this_node}", merged(own))

        if self.this_node != 0:
            return None
        keys = [f"wc-map-{node}" for node in range(self.node_count)]
        total = merged(self.store.wait(key, timeout_seconds=self.patience_seconds).to_arrow() for key in keys)
        self.store.put("wc", total.sort_by([("count", "descending"), ("word", "ascending")]))
        print(f"Different words: {total.num_rows}")
        return total.num_rows


def words(text: BinaryIO) -> Iterator[pa.RecordBatch]:
    """Read a text of any size as a column of words, some megabytes at a time."""
    yield column(pa.array([], pa.string()))  # so that a text without words is a frame too
    rest = b""
    while block := text.read(BLOCK_BYTES):
        # The last word may go on in the next block. All white space is one byte long, so no character is cut.
        cut = max((rest + block).rfind(space) for space in (b" ", b"\t", b"\n", b"\v", b"\f", b"\r")) + 1
        whole, rest = (rest + block)[:cut], (rest + block)[cut:]
        yield column(split(whole))
    yield column(split(rest))


def split(text: bytes) -> pa.Array:
    found = pc.ascii_split_whitespace(pa.array([text.decode("utf-8", "backslashreplace")])).flatten()
    return found.filter(pc.not_equal(found, ""))  # before the first and after the last white space


def column(array: pa.Array) -> pa.RecordBatch:
    return pa.record_batch([array], ["word"])


def counted(batch: pa.RecordBatch) -> pa.Table:
    counts = pa.table(batch).group_by("word", use_threads=False).aggregate([([], "count_all")])
    return counts.rename_columns({"count_all": "count"})


def merged(counts: Iterable[pa.Table]) -> pa.Table:
    none = pa.table({"word": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
    total = pa.concat_tables([none, *counts]).group_by("word").aggregate([("count", "sum")])
    return total.rename_columns({"count_sum": "count"})
