"""Projections of queries, keys and values that attention makes itself, sequence by sequence (see `postponed.py`).

The first sequences' rows are made before attention starts, those of later ones a tile of columns at a time between the
stages of its units.
"""

from collections.abc import Callable, Sequence
from functools import partial

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.kernel import RowProduct
from lowering.graph_to_tile.pipelining import Stage, Unit
from lowering.graph_to_tile.turning import Bank
from neuron_dialects.access import Affine

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

    def begin(self, count: int) -> None:
        """The rows of the first `count` sequences."""
        if self.products:
            with self.b.loop(count) as i:
                for piece in self._pieces(i):
                    piece()

    def stages(self, units: int, ahead: int, place: Callable[[Unit], tuple[Affine, int]]) -> list[Stage]:
        """Stages that make one sequence in `units` units; `place` gives a unit's (sequence, number)."""

        def project(unit: Unit, part: int) -> None:
            sequence, number = place(unit)
            pieces = self._pieces(sequence)[number::units]
            for piece in pieces[part * len(pieces) // PARTS : (part + 1) * len(pieces) // PARTS]:
                piece()

        parts = range(PARTS) if self.products else ()
        return [Stage(partial(project, part=part), ahead, begins=False) for part in parts]

    def _pieces(self, sequence: Affine) -> list[Callable[[], None]]:
        """What emits the rows of one sequence, a tile of columns at a time."""
        banks, rows = self.banks(), (sequence * self.length, self.length)
        return [piece for product in self.products for piece in product.pieces(rows, banks)]
