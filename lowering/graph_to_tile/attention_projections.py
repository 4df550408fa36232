"""Projections of queries, keys and values that attention makes itself, sequence by sequence (see `postponed.py`).

The first sequences' rows are made before attention starts, those of later ones a tile of columns at a time between the
stages of its units.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.kernel import RowProduct
from lowering.graph_to_tile.pipelining import Stage, Unit
from lowering.graph_to_tile.turning import Bank
from neuron_dialects.access import Affine

Pieces = list[Callable[[], None]]
"""What emits a tile of columns each."""

SUM_BANKS = 2
"""Banks of PSUM that an attention has for these products."""

PARTS = 3
"""Places in the step of a unit where tiles are made, so that what evicts them does its other work between."""


class Projections:
    """The products that one attention makes; `length` positions in a sequence, PSUM tiles from `banks`."""

    def __init__(self, b: KernelBuilder, products: Sequence[RowProduct], length: int, banks: Callable[[], Bank]):
        self.b, self.products, self.length, self.banks = b, products, length, banks
        for product in products:
            product.load()

    def __bool__(self) -> bool:
        return bool(self.products)

    def begin(self, count: int, first: Affine | int = 0) -> None:
        """The rows of `count` sequences from `first` on."""
        if self.products:
            with self.b.loop(count) as i:
                for piece in self._pieces(i + first):
                    piece()

    def stages(self, units: int, ahead: int, place: Callable[[Unit], tuple[Affine, int]]) -> list[Stage]:
        """Stages that make one sequence in `units` units; `place` gives a unit's (sequence, number)."""

        def shares(unit: Unit) -> Pieces:
            sequence, number = place(unit)
            return self._pieces(sequence)[number::units]

        return self._stages(ahead, shares)

    def stages_in_order(
        self, sequences: int, units: int, ahead: int, place: Callable[[Unit], tuple[Affine, int]]
    ) -> list[Stage]:
        """The same, columns of all products side by side; what is made before the first step is emitted at once."""
        if not self.products:
            return []
        whole, rest = divmod(ahead, units)
        self.begin(min(whole, sequences))
        for number in range(rest if whole < sequences else 0):
            for piece in self._share((Affine(whole), number), units):
                piece()
        return self._stages(ahead, lambda unit: self._share(place(unit), units))

    def units_ahead(self, units: int, blocks: int) -> int:
        """How many units ahead of the first one that reads them columns are to be made, in order, if each of the first
        `blocks` units reads as many of them.
        """
        total = len(self._in_order(Affine(0))) if self.products else 0
        made = [
            next(n for n in range(units) if (n + 1) * total // units >= ceil(total * (i + 1) / blocks))
            for i in range(blocks)
        ]
        return max(0, *(number - block for block, number in enumerate(made))) + 1

    def _stages(self, ahead: int, shares: Callable[[Unit], Pieces]) -> list[Stage]:
        def project(unit: Unit, part: int) -> None:
            pieces = shares(unit)
            for piece in pieces[part * len(pieces) // PARTS : (part + 1) * len(pieces) // PARTS]:
                piece()

        parts = range(PARTS) if self.products else ()
        return [Stage(partial(project, part=part), ahead, begins=False) for part in parts]

    def _share(self, unit: Unit, units: int) -> Pieces:
        """What a unit makes of its sequence, in order."""
        pieces = self._in_order(unit[0])
        return pieces[unit[1] * len(pieces) // units : (unit[1] + 1) * len(pieces) // units]

    def _in_order(self, sequence: Affine) -> Pieces:
        """The pieces of one sequence, the first columns of all products first."""
        placed = [
            ((i + 1) / len(pieces), number, piece)
            for number, pieces in enumerate(self._by_product(sequence))
            for i, piece in enumerate(pieces)
        ]
        return [piece for _, _, piece in sorted(placed, key=lambda p: p[:2])]

    def _pieces(self, sequence: Affine) -> Pieces:
        """What emits the rows of one sequence, a tile of columns at a time."""
        return [piece for pieces in self._by_product(sequence) for piece in pieces]

    def _by_product(self, sequence: Affine) -> list[Pieces]:
        banks, rows = self.banks(), (sequence * self.length, self.length)
        return [product.pieces(rows, banks) for product in self.products]
