"""What happens to the gates of a block of hidden units in one step of a recurrent layer, on tiles.

A `Block` holds the views of one block: sums of products in PSUM, which the tensor engine leaves in one or two parts of
the partitions, gates that were computed beforehand, and state. Cells leave the last instruction, which makes the new h,
to their caller: it knows where h is needed, and in which types.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.pointwise_unary import emit_unary
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import GateFunction, GateFunctionAttr, UnaryKind

Finish = Callable[[View], None]
"""Emits the instruction that computes the new h into a view."""


@dataclass(frozen=True)
class Block:
    """Views of one block, [lanes, ...] each.

    `sums`: parts (first lane, [lanes of the part, gates, tiles, batch] in PSUM); `gates`: [lanes, gates, tiles, batch];
    `peepholes`: [lanes, 3, tiles, batch]; `bias`, `h`, `c`: [lanes, tiles, batch]; `h` where it is kept as f32.
    """

    sums: Sequence[tuple[int, View]]
    gates: View
    h: View | None = None
    c: View | None = None
    peepholes: View | None = None
    bias: View | None = None


class Cell:
    """Emits the functions of one direction's cells; `functions` are those of the operator, in its order."""

    def __init__(self, e: Emitter, functions: Sequence[GateFunctionAttr], clip: float | None):
        self.e, self.functions, self.clip = e, functions, clip

    # -- cells
    # ------------------------------------------------------------------------------------------------------------

    def rnn(self, block: Block) -> Finish:
        """h = F(gates + sums)."""
        total = self._clipped(self._total(block, 0, 1)).at(1, 0)
        return lambda dst: self._function(self.functions[0], dst, total)

    def lstm(self, block: Block, new_c: View, input_forget: bool) -> Finish:
        """Leaves the new cell state in `new_c`, which may be the old one's view."""
        e, (gate, cell, output) = self.e, self.functions
        total, old_c = self._total(block, 0, 4), block.c
        assert old_c is not None
        if block.peepholes is not None:
            self._add_peephole(total.at(1, 0), block.peepholes.at(1, 0), old_c)
            self._add_peephole(total.at(1, 2), block.peepholes.at(1, 2), old_c)
        else:
            total = self._clipped(total)
        gates = self._temp(total)
        if block.peepholes is None and not input_forget:
            self._function(gate, gates.slice(1, 0, 3), total.slice(1, 0, 3))
        else:
            for number in (0,) if input_forget else (0, 2):
                self._function(gate, gates.at(1, number), self._clipped_late(block, total.at(1, number)))
            if block.peepholes is None:
                self._function(gate, gates.at(1, 1), total.at(1, 1))
        i, o, f, g = (gates.at(1, number) for number in range(4))
        self._function(cell, g, self._clipped_late(block, total.at(1, 3)))
        if input_forget:
            e.scalar(f, i, "multiply", -1.0, "add", 1.0)
        # What has become a gate leaves its place.
        kept = self._temp(old_c) if block.peepholes is not None else total.at(1, 0)
        e.tensors(kept, f, old_c, "multiply")
        e.tensors(g, i, g, "multiply")
        e.tensors(new_c, kept, g, "add")
        if block.peepholes is not None:
            self._add_peephole(total.at(1, 1), block.peepholes.at(1, 1), new_c)
            self._function(gate, o, self._clipped_late(block, total.at(1, 1)))
        shown = self._temp(new_c) if block.peepholes is not None else total.at(1, 1)
        self._function(output, shown, new_c)
        return lambda dst: e.tensors(dst, o, shown, "multiply")

    def gru_gates(self, block: Block) -> View:
        """Update and reset gate, [lanes, 2, tiles, batch]."""
        total = self._clipped(self._total(block, 0, 2))
        gates = self._temp(total)
        self._function(self.functions[0], gates, total)
        return gates

    def gru(self, block: Block, update: View, reset: View | None) -> Finish:
        """The new h; the hidden gate's sums come last in `block.sums`, to be scaled by `reset` if that is given."""
        e, number = self.e, block.sums[0][1].shape[1] - 1
        if reset is None:
            total = self._temp(update)
            for lane, part in block.sums:
                self._add_part(total, block.gates.at(1, 2), lane, part.at(1, number))
        else:
            total = self._temp(update)
            for lane, part in block.sums:
                here = total.slice(0, lane, part.partitions)
                inner = part.at(1, number)
                if block.bias is not None:
                    e.tensors(here, inner, block.bias.slice(0, lane, part.partitions), "add")
                    inner = here
                e.tensors(here, inner, reset.slice(0, lane, part.partitions), "multiply")
            e.tensors(total, total, block.gates.at(1, 2), "add")
        assert block.h is not None
        fresh, change = self._temp(update), self._temp(update)
        self._function(self.functions[1], fresh, self._clipped(total))
        e.tensors(change, block.h, fresh, "subtract")
        e.tensors(change, update, change, "multiply")
        return lambda dst: e.tensors(dst, fresh, change, "add")

    # -- pieces
    # -----------------------------------------------------------------------------------------------------------

    def _temp(self, like: View) -> View:
        return self.e.temp(like, rotating=True)

    def _total(self, block: Block, first: int, count: int) -> View:
        """Gates `first` .. `first + count - 1` with their sums."""
        gates = block.gates.slice(1, first, count)
        total = self._temp(gates)
        for lane, part in block.sums:
            self._add_part(total, gates, lane, part.slice(1, first, count))
        return total

    def _add_part(self, dst: View, gates: View, lane: int, part: View) -> None:
        lanes = part.partitions
        self.e.tensors(dst.slice(0, lane, lanes), part, gates.slice(0, lane, lanes), "add")

    def _add_peephole(self, total: View, peephole: View, c: View) -> None:
        seen = self._temp(c)
        self.e.tensors(seen, c, peephole, "multiply")
        self.e.tensors(total, total, seen, "add")

    def _clipped(self, x: View) -> View:
        """x clipped in place."""
        if self.clip is not None:
            self.e.scalar(x, x, "minimum", self.clip, "maximum", -self.clip)
        return x

    def _clipped_late(self, block: Block, x: View) -> View:
        """x clipped in place if it was not before, because a peephole had to be added."""
        return x if block.peepholes is None else self._clipped(x)

    def _function(self, function: GateFunctionAttr, dst: View, x: View) -> None:
        """dst = function(x); dst is not x."""
        alpha, beta = function.numbers
        match function.function:
            case GateFunction.AFFINE:
                self.e.scalar(dst, x, "multiply", alpha, "add", beta)
            case GateFunction.SCALED_TANH:
                tanh = self._temp(dst)
                self.e.function(tanh, x, "tanh", scale=beta)
                self.e.scalar(dst, tanh, "multiply", alpha)
            case kind:
                with self.e.scope():
                    emit_unary(self.e, UnaryKind(kind.value), dst, x, alpha, beta)
