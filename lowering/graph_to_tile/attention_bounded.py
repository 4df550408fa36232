"""Attention over many short sequences whose scores need no maxima: see `graph-bound-scores`.

For each sequence and each group of heads whose scores fill one PSUM bank:

    turned[key, head, q]  = mask[q, head, key]^T . 1 / scale + kT[d, key]^T . qT[d, q]   tensor engine, into PSUM
    powers[key, head, q]  = exp(turned * scale)                                          rounded to v's type
    context[q, head, :]   = powers^T . (v[key, :], 1)                                    divided by its last column

Against `attention_short.py` powers are made where the context is to contract them: no maxima are taken, and nothing of
the scores passes through PSUM a second time.
"""

from collections.abc import Callable, Sequence

from lowering.graph_to_tile.attention_plan import HeadGroup
from lowering.graph_to_tile.attention_short import ShortAttention, ShortSequence, ShortUnit
from lowering.graph_to_tile.pipelining import Stage, Unit, neighbours_apart
from neuron_dialects.access import Affine

CONTEXT_AHEAD = 2
"""How many units ahead of the step in which its result is put in place the context of a unit is made. Its powers come
one unit before that, its scores two."""


class BoundedAttention(ShortAttention):
    """Emits one attention with bounded scores."""

    context_ahead: int = CONTEXT_AHEAD

    def _results(self, together: int) -> int:
        """As many as keep apart the results that are made from those that are put in place.

        One sequence in an iteration has one: its result is in place before the next one's is begun.
        """
        if together == 1:
            self.context_ahead = 1
            return 1
        return neighbours_apart(together, self.context_ahead)

    def _prepare_constants(self) -> None:
        """The mask, and what multiplies it."""
        _ = self._added and self._unscaled

    def _stages(self, at: Callable[[Unit], ShortUnit], copies: int, others: Sequence[Stage]) -> tuple[Stage, ...]:
        def values(unit: Unit) -> None:
            here, own = at(unit)
            if own.head == Affine(0):
                self._bring(here)

        def finish(unit: Unit) -> None:
            here, own = at(unit)
            if own.last:
                self._finish(here, own.tile)

        context = self.context_ahead
        return (
            *others[:1],
            Stage(lambda unit: self._score(*at(unit), unit[1], copies), context + 2),
            *others[1:2],
            Stage(lambda unit: self._weigh(at(unit)[1], unit[1], copies), context + 1),
            *others[2:],
            Stage(finish, 0),
            Stage(lambda unit: self._context_of(*at(unit), unit[1], copies), context),
            Stage(values, context + 1),
        )

    def _score(self, here: ShortSequence, unit: HeadGroup, number: int, copies: int) -> None:
        """Scores and mask of a unit in PSUM, keys on partitions."""
        # There are as many keys as queries.
        bank, mask = self._bank(unit, number), self._added
        if mask is not None:
            own = mask.at(1, here.mask_number)
            for j in range(unit.group):
                head = unit.head + j if own.shape[1] > 1 else 0
                self.b.matmul(bank.at(1, j), own.at(1, head), self._unscaled, 0)
        for j in range(unit.group):
            lane, tile = self._place(unit, unit.first + j, unit.period, self.size)
            keys, queries = (x.slice(0, lane, self.size).at(1, tile) for x in (here.k, here.q))
            self.b.matmul(bank.at(1, j), keys, queries, int(mask is not None))

    def _weigh(self, unit: HeadGroup, number: int, copies: int) -> None:
        """The powers of a unit, keys on partitions."""
        target = self._turned(unit, number, copies)
        self.b.activation(target, self._bank(unit, number).flat(), "exp", self.op.scale.value.data)
