"""Attention with keys on partitions whose scores are lowered by one number instead of by the maxima of their rows.

    turned[key, head, q]  = kT[d, key]^T . qT[d, q]                     tensor engine, into PSUM
    powers[key, head, q]  = exp(turned * scale - shift)                 rounded to v's type
    context[q, head, :]   = powers^T . v[key, :] / (powers^T . 1)       tensor engine; divided as it leaves PSUM

A softmax stays what it is when all scores of a query are lowered by the same number. It takes the maxima only so that
no power overflows and not all of a query vanish; `graph-bound-scores` proves where one number does for both. Scores are
then made once and leave PSUM once, where `attention_keys.py` makes and reads them twice.
"""

from functools import cached_property

from lowering.graph_to_tile.attention_keys import At, KeyAttention
from lowering.graph_to_tile.attention_plan import HeadGroup
from lowering.graph_to_tile.attention_powers import ShiftedPowers
from lowering.graph_to_tile.pipelining import Stage
from lowering.graph_to_tile.view import View


class ShiftedKeyAttention(KeyAttention):
    """Emits one attention that has a `score_shift` and no mask."""

    @cached_property
    def _shifted(self) -> ShiftedPowers:
        return ShiftedPowers(self.b, self.op)

    def _begin(self) -> None:
        self._shifted.prepare()

    def _maxima(self, at: At, each: int, first: int) -> tuple[tuple[Stage, ...], tuple[Stage, ...], tuple[Stage, ...]]:
        return (), (), ()

    def _lower(self, part: View, unit: HeadGroup, j: int, tile: int) -> bool:
        return False

    def _power(self, target: View, scores: View) -> None:
        self._shifted.make(target, scores)
