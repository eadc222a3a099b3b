"""Running the stages of a cut plan on workers, or only saying what they might make."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from eau2.distributed.cut import MEMORY_SHARE, PARTITIONS_MAX
from eau2.distributed.fragment import ChunksRead, Fragment, PiecesRead
from eau2.distributed.parts import Output, Where
from eau2.distributed.runner import ALONE_SHARE
from eau2.distributed.substrait import inputs_of, kind_of, reads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from eau2.distributed.cut import Cut
    from eau2.distributed.fragment import Piece, Workers
    from eau2.distributed.parts import Scan, Stage
    from eau2.distributed.substrait import Rel


class Estimated:
    """Stages that do not run: each makes what was guessed of it."""

    def __init__(self, workers: Workers, bytes_read: int, *, gather_bytes_max: int) -> None:
        self.workers = workers
        self.node_count = len(workers.nodes)
        self.memory_bytes = workers.memory_bytes
        self.gather_bytes_max = gather_bytes_max
        # A partition of everything that is read fits in its share of a node's memory, and all nodes have as many.
        rounds = -(-bytes_read // max(1, self.node_count * self.memory_bytes // MEMORY_SHARE))
        if bytes_read > self.node_count * self.memory_bytes // ALONE_SHARE:
            rounds = max(rounds, workers.threads)
        self.partitions = max(self.node_count, min(PARTITIONS_MAX, self.node_count * rounds))
        self.outputs: list[tuple[str, Where, Output]] = []  # what each stage does, where, and what it has made

    def run(self, stage: Stage, cut: Cut) -> Output:
        return self._noted(stage, cut, Output(stage.schema, 0, stage.bytes))

    def _noted(self, stage: Stage, cut: Cut, output: Output) -> Output:
        self.outputs.append((described(stage.rel, cut.scans), stage.where, output))
        return output


class Running(Estimated):
    """Stages that run, each to its end before the next begins. What they made is freed once it was read."""

    def run(self, stage: Stage, cut: Cut) -> Output:
        fragments = list(self._fragments(stage, cut))
        pieces = self.workers.run(fragments)
        output = Output(stage.schema, sum(each.rows for each in pieces), sum(each.bytes for each in pieces), pieces)
        for name in set(reads(stage.rel)) & set(cut.inputs):
            if not cut.inputs[name].is_scalar:
                self._free(cut.inputs[name])
        return self._noted(stage, cut, output)

    def read(self, output: Output) -> list[pa.RecordBatch]:
        """Bring what a stage has made to the caller, in order where it is ordered, and free it."""
        pieces = sorted(output.pieces, key=lambda piece: piece.order)
        output.moved_rows, output.moved_bytes = output.rows, output.bytes
        batches = [batch for table in self.workers.read(pieces) for batch in table.to_batches()]
        self._free(output)
        return batches

    def close(self) -> None:
        """Free all that was made and not read."""
        for _, _, output in self.outputs:
            self._free(output)

    def _free(self, output: Output) -> None:
        self.workers.free(output.pieces)
        output.pieces = ()

    def _fragments(self, stage: Stage, cut: Cut) -> Iterator[Fragment]:
        names = list(dict.fromkeys(reads(stage.rel)))
        inputs = {name: cut.inputs[name] for name in names if name in cut.inputs}
        scans = {name: cut.scans[name] for name in names if name in cut.scans}
        plan = b"" if _is_whole(stage) else cut.dialect.encode(stage.rel)
        nodes = self.workers.nodes
        if stage.where is Where.NODES:
            for node in self._nodes_of(scans):
                given = tuple(self._given(name, output, node) for name, output in inputs.items())
                chunks = [self._chunks(name, scan, node) for name, scan in scans.items()]
                for part in [chunks] if stage.in_order else self._dealt(chunks, scans):
                    yield Fragment(node, plan, tuple(part), given, stage.keys, self.partitions, stage.in_order)
            return
        places = range(self.partitions) if stage.where is Where.PARTITIONS else [len(self.outputs)]
        for place in places:
            node = nodes[place % len(nodes)]
            given = tuple(self._given(name, output, node, place) for name, output in inputs.items())
            if stage.where is Where.ONE or any(each.pieces for each in given if each.keys is not None):
                yield Fragment(node, plan, (), given, stage.keys, self.partitions)

    def _nodes_of(self, scans: dict[str, Scan]) -> Sequence[str]:
        reading = {self._node(scan, chunk) for scan in scans.values() for chunk in scan.chunks}
        return [node for node in self.workers.nodes if node in reading]

    def _node(self, scan: Scan, chunk: int) -> str:
        return self.workers.place(scan.source.origin, chunk)

    def _chunks(self, name: str, scan: Scan, node: str) -> ChunksRead:
        ids = scan.source.manifest.chunk_ids
        chunks = tuple((chunk, ids[chunk]) for chunk in scan.chunks if self._node(scan, chunk) == node)
        return ChunksRead(name, scan.source.key, scan.columns, chunks, scan.schema.serialize().to_pybytes())

    def _dealt(self, chunks: list[ChunksRead], scans: dict[str, Scan]) -> Iterator[list[ChunksRead]]:
        """Yield the chunks of a node for one fragment, or when they are many, for as many as it runs at once."""
        size = sum(scans[read.name].bytes_of([chunk for chunk, _ in read.chunks]) for read in chunks)
        parts = self.workers.threads if size > self.memory_bytes // ALONE_SHARE else 1
        for part in range(min(parts, max(len(read.chunks) for read in chunks))):
            yield [replace(read, chunks=read.chunks[part::parts]) for read in chunks]

    def _given(self, name: str, output: Output, node: str, place: int = 0) -> PiecesRead:
        """Return what the fragment for partition `place` reads of `output`, and count what moves to `node` for it."""
        pieces = list(output.pieces)
        keys: tuple[int, ...] | None = None
        if output.move == "exchange":
            pieces, keys = [piece for piece in pieces if piece.partition == place], output.keys
        elif output.move == "stay":
            nodes = self.workers.nodes  # of which there are as many as partitions, or fewer
            pieces = [piece for piece in pieces if nodes.index(piece.node) == place]
            keys = ()
        self._count_moved(output, pieces, node)
        return PiecesRead(name, tuple(pieces), output.schema.serialize().to_pybytes(), keys)

    def _count_moved(self, output: Output, pieces: Sequence[Piece], node: str) -> None:
        moved = [piece for piece in pieces if piece.node != node]
        output.moved_rows += sum(piece.rows for piece in moved)
        output.moved_bytes += sum(piece.bytes for piece in moved)


def _is_whole(stage: Stage) -> bool:
    """Whether a stage is the rows of a table as they are, for which the engine need not be asked."""
    kind, body = kind_of(stage.rel)
    if kind != "read" or "namedTable" not in body:
        return False
    selected = body.get("projection", {}).get("select", {}).get("structItems")
    return selected is None or [int(item.get("field", 0)) for item in selected] == list(range(len(stage.schema)))


def described(rel: Rel, scans: Mapping[str, Scan]) -> str:
    """Return the operations of `rel`, those on top first, and the tables by the keys they have in the store."""
    kind, body = kind_of(rel)
    if kind == "read":
        if "namedTable" not in body:
            return "values"
        name = body["namedTable"]["names"][-1]
        if name not in scans:
            return str(name)
        scan = scans[name]
        total = len(scan.source.manifest.chunk_rows)
        return scan.source.key + ("" if len(scan.chunks) == total else f"[{len(scan.chunks)} of {total} chunks]")
    if kind == "project" and "windowFunction" in str(body.get("expressions")):
        kind = "window"
    if kind == "join":
        kind = body["type"].removeprefix("JOIN_TYPE_").lower() + " join"
    return f"{kind}({', '.join(described(each, scans) for each in inputs_of(rel))})"
