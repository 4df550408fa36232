"""Pointwise convolutions that run together, piece by piece, each one piece behind the one before.

`graph-chain-pixels` says which kernels these are and how many rows of an image are a piece. What lies between them is
on chip, two pieces of each result. The kernels are not lowered where they stand: each leaves a stage, and the last one
has all of them emitted:

    for p: for all tiles of pixels of a piece: [last of piece p - n + 1, ..., second of piece p - 1, first of piece p]

A kernel that takes several engines to bring a sum out of PSUM has a loop of its own: in one loop these would wait for
each other in turn. So has one that needs another of the scalar engine's tables. Such loops come behind the others, the
first kernel's first: what one of them leaves to the vector engine then runs beside the functions of the next loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import LocationAttr

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_pixels import Range
from lowering.graph_to_tile.windows import output_tile
from neuron_dialects.access import Affine
from neuron_dialects.graph import UnaryKind


@dataclass(frozen=True)
class Stage:
    """A kernel whose weights are on chip: `emit(images, ranges, banks)` makes a tile, of some depths, rows and columns,
    in `sums` sums, which take turns in `banks` banks of PSUM. `functions`: what the scalar
    engine needs a table for; `plain`: an instruction of one engine brings a sum out of PSUM.
    """

    location: LocationAttr
    sums: int
    functions: frozenset[UnaryKind]
    plain: bool
    emit: Callable[[Range, Sequence[Range], int], None]


@dataclass
class Chain:
    """The kernels of a chain, of which `count` are to come: `images` of `rows` by `columns`, `piece` rows at a time.

    `stages`: those that have come.
    """

    count: int
    images: int
    rows: int
    columns: int
    piece: int
    stages: list[Stage] = field(default_factory=list[Stage])

    def add(self, b: KernelBuilder, stage: Stage, bank: int) -> None:
        """Take the next kernel, and emit all of them if it is the last one; `bank`: elements of a bank of PSUM."""
        self.stages.append(stage)
        if len(self.stages) == self.count:
            self._emit(b, output_tile((self.piece, self.columns), bank)[0])

    def _emit(self, b: KernelBuilder, tile_rows: int) -> None:
        per_image = self.rows // self.piece
        pieces = self.images * per_image
        for turn in range(pieces + self.count - 1):
            for group in self._groups():
                active = [(self.stages[late], turn - late) for late in group if 0 <= turn - late < pieces]
                banks = shares([stage.sums for stage, _ in active], int(b.target.psum_banks))

                def tile(
                    start: Affine,
                    size: int,
                    active: Sequence[tuple[Stage, int]] = active,
                    banks: Sequence[int] = banks,
                ) -> None:
                    for (stage, number), count in zip(active, banks, strict=True):
                        image, part = divmod(number, per_image)
                        rows = (start + part * self.piece, size)
                        b.location = stage.location
                        stage.emit((Affine(image), 1), [(Affine(), 1), rows, (Affine(), self.columns)], count)

                if active:
                    b.tiles(self.piece, tile_rows, tile)

    def _groups(self) -> list[list[int]]:
        """Stages that share a loop over tiles: the last ones first, then the first ones of those of several engines."""
        groups: list[list[int]] = []
        for late in reversed(range(self.count)):
            together = [*(groups[-1] if groups else []), late]
            functions = set[UnaryKind]().union(*(self.stages[i].functions for i in together))
            if groups and all(self.stages[i].plain for i in together) and len(functions) < 2:
                groups[-1].append(late)
            else:
                groups.append([late])
        several = [group for group in groups if not self.stages[group[0]].plain]
        return [*(group for group in groups if group not in several), *reversed(several)]


def shares(sums: Sequence[int], banks: int) -> list[int]:
    """Banks for each of several kernels: as many for all, and what is left for those that have more sums to make.

    An engine that goes on from bank to bank of one kernel keeps another one out of PSUM. The kernel that this one works
    for has sums in further banks meanwhile.
    """
    found = [banks // len(sums) if sums else 0] * len(sums)
    most = sorted(range(len(sums)), key=lambda i: (-sums[i], i))
    for i in most[: banks - sum(found)]:
        found[i] += 1
    return found
