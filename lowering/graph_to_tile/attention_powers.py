"""Powers of scores that are lowered by one number for all queries, where `graph-bound-scores` proves that it serves."""

from functools import cached_property

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.tensors import LANES
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import AttentionOp, shape_of


def is_shifted(op: AttentionOp) -> bool:
    """Whether an attention without a mask needs no maxima."""
    return op.score_shift is not None and op.mask is None


class ShiftedPowers:
    """exp(scores * scale - shift) with the numbers of one attention, keys on partitions."""

    def __init__(self, b: KernelBuilder, op: AttentionOp):
        self.b, self.op = b, op

    def prepare(self) -> None:
        """What all units share."""
        _ = self._lowered_by

    @cached_property
    def _lowered_by(self) -> View | None:
        """Minus the shift for each key; None where it is 0, or maxima were subtracted before."""
        shift = self.op.score_shift
        if not shift:
            return None
        column = self.b.alloc_outer((min(LANES, shape_of(self.op.k)[1]), 1), "f32", "sbuf", "shift").view()
        self.b.memset(column, -shift)
        return column

    def make(self, target: View, scores: View) -> None:
        """target [keys, elements] = the powers of scores in PSUM."""
        column = self._lowered_by
        bias = None if column is None else column.slice(0, 0, scores.partitions)
        self.b.activation(target, scores, "exp", self.op.scale.value.data, bias)
