"""Indices of samples on chip: a column for each index of a sample, one sample on each partition.

Recommenders keep the indices of all their tables in one tensor, and slice it. A transfer takes longer to start than to
move the indices of one table, so what lies side by side in memory comes together, for all whole tiles of 128 samples.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from lowering.graph_to_tile.gather import all_counted_from_start
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine


def side_by_side(tensors: Sequence[DramTensor]) -> list[list[int]]:
    """The numbers of tensors [samples, count] in groups: of each sample, the elements of a group are one run."""
    order = sorted(range(len(tensors)), key=lambda n: (tensors[n].buffer.key, tensors[n].offset, n))
    groups: list[list[int]] = []
    for number in order:
        tensor, before = tensors[number], tensors[groups[-1][-1]] if groups else None
        follows = (
            before is not None
            and (before.buffer, before.strides[0]) == (tensor.buffer, tensor.strides[0])
            and before.offset + before.shape[1] == tensor.offset
            and all(t.shape[1] == 1 or t.strides[1] == 1 for t in (before, tensor))
        )
        if follows:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


@dataclass
class SampleIndices:
    """The indices of several tables. `tensors`: those of each, [samples, count]; `rows`: its rows, from whose end
    negative ones count; `local`: the tables whose indices are not wanted for whole tiles of samples.
    """

    k: Kernel
    tensors: Sequence[DramTensor]
    rows: Sequence[int]
    local: Collection[int] = ()
    whole: dict[int, View] = field(default_factory=dict)
    rest: dict[int, View] = field(default_factory=dict)

    def load(self) -> None:
        """Bring the indices of all whole tiles of samples on chip."""
        tiles = self.tensors[0].shape[0] // LANES if self.tensors else 0
        if tiles:
            wanted = [number for number in range(len(self.tensors)) if number not in self.local]
            self.whole = self._load(wanted, Affine(0), ((1, LANES), (LANES, tiles)))

    def columns(self, number: int, start: Affine, size: int) -> View:
        """The indices of a table for a tile of samples, [samples, count]."""
        if size == LANES:
            return self.whole[number].at(1, start.divided(LANES))
        if not self.rest:
            self.rest = self._load(range(len(self.tensors)), start, ((1, size),))
        return self.rest[number]

    def _load(self, wanted: Collection[int], start: Affine, samples: Sequence[tuple[int, int]]) -> dict[int, View]:
        """The `wanted` indices of some samples: (samples between positions, positions) of each dimension, lanes first.

        What is not wanted comes with its neighbours.
        """
        b, raw = self.k.b, dict[int, View]()
        for group in side_by_side(self.tensors):
            if not any(number in wanted for number in group):
                continue
            first, last = self.tensors[group[0]], self.tensors[group[-1]]
            stride, each = first.strides
            total = sum(self.tensors[number].shape[1] for number in group)
            dims = (*((stride * apart, size) for apart, size in samples), (each if last is first else 1, total))
            source = View(first.buffer, Affine(), 0, start * stride + first.offset, dims)
            arrived = b.alloc(source.shape, "i32", "sbuf", 1, "indices").view()
            b.load(arrived, source)
            done = 0
            for number in group:
                if number in wanted:
                    raw[number] = arrived.slice(len(dims) - 1, done, self.tensors[number].shape[1])
                done += self.tensors[number].shape[1]
        columns = all_counted_from_start(self.k, [(view, self.rows[number]) for number, view in raw.items()])
        return dict(zip(raw, columns, strict=True))
