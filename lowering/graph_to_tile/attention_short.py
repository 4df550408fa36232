"""Attention over many short sequences, each one tile of queries and keys: several sequences in one iteration of a loop.

For each sequence and each group of heads whose scores fill one PSUM bank:

    scores[q, head, key] = 1 . mask[q, head, key] / scale + qT[d, q]^T . kT[d, key]      tensor engine, into PSUM
    top[q, head]         = -max over the keys                                            as a sum of two bf16 numbers
    turned[key, head, q] = mask[q, head, key]^T . 1 / scale + kT[d, key]^T . qT[d, q] + top[q, head]^T . 1
    powers[key, head, q] = exp(turned * scale)                                           rounded to v's type
    context[q, head, :]  = powers^T . (v[key, :], 1)                                     divided by its last column

Against `attention_rows.py` the tensor engine, which has time, adds masks and maxima, makes the scores twice, the second
time where the context is to contract their powers, and sums these up, so that each of the other engines has one
instruction for all heads of a group. Where scores are known to be bounded (`graph-bound-scores`) no maximum is taken.
A mask must be known to hide no query all keys: the maximum would be a number so large that it is another one when the
scores are summed up again.

The mask stays on chip. If it repeats after some sequences, a loop over these stands in a loop over the batch.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from math import ceil

import numpy as np
from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.attention_kernel import Attention, AttentionSequence
from lowering.graph_to_tile.attention_masks import bound, bounded_parameter
from lowering.graph_to_tile.attention_operands import FEATURES
from lowering.graph_to_tile.attention_plan import HeadGroup, HeadGroups, Tile, sequences_in_iteration
from lowering.graph_to_tile.attention_powers import ShiftedPowers
from lowering.graph_to_tile.attention_projections import Projections
from lowering.graph_to_tile.kernel import Kernel, RowProduct
from lowering.graph_to_tile.pipelining import Ring, Stage, Unit, neighbours_apart, pipelined
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from lowering.graph_to_tile.turning import Bank, turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import BF16, F32
from neuron_dialects.graph import AttentionOp, CompareKind, CompareOp, ConstantOp, SelectOp, layout_of, spec_of
from neuron_dialects.graph.attention import SEES_KEYS
from passes.graph.join_sequences import LEAST_TOGETHER

LEAST_FULL = 16
"""Fewer sequences that fill all lanes are worked on one by one."""

MASK_SHARE = 8
"""A mask stays on chip where it takes at most one part of so many of SBUF."""

CONTEXT_AHEAD = 3
"""How many units ahead of the step in which its result is put in place the context of a unit is made."""

POWERS_EARLIER, VALUES_EARLIER, SCORES_EARLIER, TOPS_EARLIER = 1, 2, 2, 4
"""How many units ahead of that its powers come, its values, its scores, and their maxima."""

SCORE_BANKS = 4
"""Banks of PSUM for scores in both orders."""

MOST_SLOTS = 4
"""Parts of a bank of PSUM at most."""


def is_short(k: Kernel, op: AttentionOp) -> bool:
    """Whether this kernel can lower the attention."""
    places = (k.tensor(value) for value in (op.q, op.k, op.v))
    if not all(isinstance(place, SbufTensor) and place.partition == FEATURES for place in places):
        return False
    return has_short_form(k, op) and (op.mask is None or isinstance(k.tensor(op.mask), DramTensor))


def has_short_form(k: Kernel, op: AttentionOp) -> bool:
    """Whether this kernel is the one for an attention whose operands lie as it wants them."""
    sequences, queries, _ = spec_of(op.q)[1]
    lanes, bank = min(LANES, int(k.target.pe_columns)), int(k.target.psum_bank_bytes) // F32.size_bytes
    least = LEAST_TOGETHER if queries < LANES else LEAST_FULL
    if not k.takes("short-sequences") or op.causal or op.scale.value.data <= 0 or sequences < least:
        return False
    if queries != spec_of(op.k)[1][1] or queries > lanes or op.heads.value.data != op.kv_heads.value.data:
        return False
    if any(spec_of(value)[0] is not BF16 for value in (op.q, op.k, op.v)) or op.head_size > LANES:
        return False
    if op.mask is not None and (SEES_KEYS not in op.attributes or not _stays_on_chip(k, op.mask, queries)):
        return False
    return queries <= bank and op.value_size < bank


def _stays_on_chip(k: Kernel, mask: SSAValue, queries: int) -> bool:
    """Whether a mask is one for each query and key, and small enough to be brought on chip as a whole."""
    dtype, shape = spec_of(mask)
    if dtype is not BF16 or len(shape) != 4 or shape[2:] != (queries, queries):
        return False
    room = int(k.target.sbuf_bytes_per_partition) // MASK_SHARE
    return layout_of(mask) is None and shape[0] * shape[1] * queries * dtype.size_bytes <= room


class ShortSequence(AttentionSequence):
    """Sequence `batch`, number `number` of its iteration, with mask `mask_number` of those that are repeated."""

    def __init__(self, kernel: Attention, batch: Affine, number: int, mask_number: Affine, copies: int):
        """`copies`: tiles for results that sequences take in turn."""
        super().__init__(kernel, batch)
        self.number, self.mask_number, self.copies = number, mask_number, copies

    def result(self, tile: Tile) -> View:
        """Where the rows of the result are put together."""
        a, elements = self.kernel, self.kernel.heads * self.kernel.value_size
        ring = a.ring("context", (a.queries, elements), a.out_dtype, "sbuf", self.copies)
        return ring.take((tile.rows, elements), self.number)


ShortUnit = tuple[ShortSequence, HeadGroup]
"""A sequence and the heads of it that are worked on."""


class ShortAttention(Attention):
    """Emits one attention."""

    panels: list[View]
    context_ahead: int
    apart: int
    """Tiles that units take in turn, lest neighbours share one."""
    tops_apart: int
    """The same of tiles for maxima, which are there longer."""
    results: int
    """The same of sequences and their results."""

    def prepare(self) -> None:
        """The result; the mask comes on chip as a whole."""
        self.groups = HeadGroups.plan(self.heads, self.kv_heads, self.size, self.value_size + 1, self.keys, self.bank)
        self.out = self.k.output(self.op.result)

    # -- what all sequences share --------------------------------------------------------------------------------------

    def _identity(self, factor: float) -> View:
        """[queries, queries] with `factor` on the diagonal."""
        n = self.queries
        source = self.k.derive(f"attention.identity.{n}.{factor!r}", [], lambda _: _diagonal(n, factor))
        tile = self.b.alloc_outer((n, n), self.dtype, "sbuf", "identity").view()
        self.b.load(tile, source.view())
        return tile

    @property
    def _bounded(self) -> bool:
        """Whether powers need no maxima."""
        return self.op.score_shift is not None

    @cached_property
    def _shifted(self) -> ShiftedPowers:
        return ShiftedPowers(self.b, self.op)

    @cached_property
    def _one(self) -> View:
        """What puts a maximum beside each key."""
        return self._identity(1.0)

    @cached_property
    def _unscaled(self) -> View:
        """What multiplies a mask so that the scale of the scores takes it back."""
        return self._identity(1.0 / self.op.scale.value.data)

    @cached_property
    def _weighted(self) -> Bank:
        return self._slots("weighted", self.groups.group * (self.value_size + 1))

    @cached_property
    def product(self) -> RowProduct | None:
        """What makes the values where this attention wants them; None where they are on chip."""
        return self.k.value_products.pop(self.op, None)

    @cached_property
    def _sums(self) -> Bank:
        """PSUM for sums of projections."""
        values = 0 if self.product is None else self._heads_of_values * self.value_size
        return self._slots("sum", max(self.queries, values))

    @property
    def _heads_of_values(self) -> int:
        """Heads of which a bank of PSUM takes the values."""
        return min(self.heads, self.bank // self.value_size)

    @cached_property
    def _added(self) -> View | None:
        """The mask [queries, period, heads or 1, keys] on chip."""
        if self.op.mask is None:
            return None
        period, heads, _, _ = spec_of(self.op.mask)[1]
        tile = self.b.alloc_outer((self.queries, period, heads, self.keys), self.dtype, "sbuf", "mask").view()
        mask = self.k.dram(self.op.mask)
        bounded = bounded_parameter(self.k, mask)
        self.b.load(tile, (bounded or mask).view({}, [2, 0, 1, 3]))
        if bounded is None:
            bound(self.b, tile)
        return tile

    # -- units ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All sequences."""
        units = self._units(Tile(Affine(0), self.queries, self.keys))
        _ = self._added and self._unscaled, self._bounded or self._one
        self._shifted.prepare()
        made = Projections(self.b, self.k.postponed.pop(self.op, []), self.keys, lambda: self._sums)
        if self.product is not None:
            self.product.load()
        period = self.op.mask_period
        together = sequences_in_iteration(self.batch, period, len(units))
        self.panels = self._panels(together, len(units))
        if together % period == 0:
            self._sequences(Affine(0), self.batch, together, units, made)
        else:
            with self.b.loop(self.batch // period) as i:
                self._sequences(i * period, period, together, units, made)

    def _panels(self, together: int, each: int) -> list[View]:
        """Tiles [keys, heads, value size + 1] for values and columns of ones, that sequences take in turn."""
        apart = min(together - 1, 2 if each == 1 else 1)
        shape = (self.keys, self.heads, self.value_size + 1)
        panels = [
            self.b.alloc_outer(shape, self.dtype, "sbuf", "v").view()
            for _ in range(neighbours_apart(together, apart) if apart else 1)
        ]
        for panel in panels:
            self.b.memset(panel.slice(2, self.value_size, 1), 1.0)
        return panels

    def _slots(self, name: str, elements: int) -> Bank:
        """Parts of one bank of PSUM, of `elements` f32 each, that are taken in turn."""
        slots = max(1, min(MOST_SLOTS, self.bank // elements))
        whole = self.b.alloc_outer((LANES, self.bank), "f32", "psum", name).view()
        parts = iter([whole.slice(1, i * (self.bank // slots), self.bank // slots) for i in range(slots)])
        return Ring(lambda: next(parts), slots).take

    def _sequences(
        self, first: Affine, count: int, together: int, units: Sequence[HeadGroup], made: Projections
    ) -> None:
        """`count` sequences from `first` on, where the mask begins, `together` in an iteration."""
        each, period, known = len(units), self.op.mask_period, dict[tuple[Affine, int], ShortSequence]()
        # One sequence in an iteration has one result: it is in place before the next one's is begun.
        self.context_ahead = CONTEXT_AHEAD if together > 1 else 1
        self.results = neighbours_apart(together, CONTEXT_AHEAD) if together > 1 else 1
        wanted = neighbours_apart(together * each, 2 if self._bounded else 1)
        self.apart = wanted if wanted <= SCORE_BANKS else neighbours_apart(together * each)
        self.tops_apart = neighbours_apart(together * each, TOPS_EARLIER - SCORES_EARLIER)

        def at(unit: Unit) -> ShortUnit:
            trip, (number, part) = unit[0], divmod(unit[1], each)
            offset = trip * together + number
            if (trip, number) not in known:
                mask_number = offset if together % period else Affine(number % period)
                known[trip, number] = ShortSequence(self, first + offset, number, mask_number, self.results)
            return known[trip, number], units[part]

        def place(unit: Unit) -> tuple[Affine, int]:
            number, part = divmod(unit[1], each)
            return first + unit[0] * together + number, part

        ahead = ceil((self.context_ahead + TOPS_EARLIER) / each) + 1
        made.begin(min(ahead, count), first)
        others = made.stages(each, ahead * each, place) if made else []
        pipelined(self.b, count // together, together * each, self._stages(at, others), deep=True)

    def _stages(self, at: Callable[[Unit], ShortUnit], others: Sequence[Stage]) -> tuple[Stage, ...]:
        def values(unit: Unit) -> None:
            here, own = at(unit)
            if own.head == Affine(0):
                self._bring(here)

        def finish(unit: Unit) -> None:
            here, own = at(unit)
            if own.last:
                self._finish(here, own.tile)

        context = self.context_ahead
        tops = () if self._bounded else (Stage(lambda unit: self._top(*at(unit), unit[1]), context + TOPS_EARLIER),)
        # Powers of one unit, scores of the next: what waits for either finds the other engines at work.
        return (
            *others[:1],
            *tops,
            Stage(lambda unit: self._weigh(at(unit)[1], unit[1]), context + POWERS_EARLIER),
            *others[1:2],
            Stage(lambda unit: self._score(*at(unit), unit[1]), context + SCORES_EARLIER),
            *others[2:],
            Stage(finish, 0),
            Stage(lambda unit: self._context_of(*at(unit), unit[1]), context),
            # With one panel, values wait until those before are used.
            Stage(values, context + (VALUES_EARLIER if len(self.panels) > 1 else POWERS_EARLIER)),
        )

    # -- stages --------------------------------------------------------------------------------------------------------

    def _score_bank(self, unit: HeadGroup, number: int) -> View:
        """PSUM for the scores of a unit, [keys, group, queries]."""
        ring = self.ring("scores", (LANES, self.bank), "f32", "psum", self.apart)
        return ring.take((self.keys, unit.group, self.queries), number)

    def _tops(self, unit: HeadGroup, number: int) -> View:
        """Minus the maxima of a unit, [queries, 2, group]: rounded to 16 bits, and what that leaves of them."""
        ring = self.ring("top", (self.queries, 2 * self.groups.group), self.dtype, "sbuf", self.tops_apart)
        return ring.take((self.queries, 2, unit.group), number)

    def _top(self, here: ShortSequence, unit: HeadGroup, number: int) -> None:
        """Minus the maxima of scores and mask of a unit; one bank or two that its scores pass through."""
        ring = self.ring("compared", (LANES, self.bank), "f32", "psum", max(1, SCORE_BANKS - self.apart))
        bank, mask = ring.take((self.queries, unit.group, self.keys), number), self._mask_of(here, unit)
        if mask is not None:
            self.b.matmul(bank, self._unscaled, mask, 0)
        for j in range(unit.group):
            queries, keys = self._operands(here, unit, j)
            self.b.matmul(bank.at(1, j), queries, keys, int(mask is not None))
        ring = self.ring("wide", (self.queries, self.groups.group), "f32", "sbuf", 2)
        wide, tops = ring.take((self.queries, unit.group)), self._tops(unit, number)
        self.b.reduce(wide, bank, "maximum", negate=True)
        self.b.copy(tops.at(1, 0), wide)
        self.e.tensors(tops.at(1, 1), wide, tops.at(1, 0), "subtract")

    def _score(self, here: ShortSequence, unit: HeadGroup, number: int) -> None:
        """Scores, mask and minus the maxima of a unit in PSUM, keys on partitions."""
        bank, mask = self._score_bank(unit, number), self._mask_of(here, unit)
        tops = None if self._bounded else self._tops(unit, number)
        for j in range(unit.group):
            queries, keys = self._operands(here, unit, j)
            if mask is not None:
                self.b.matmul(bank.at(1, j), mask.at(1, j), self._unscaled, 0)
            self.b.matmul(bank.at(1, j), keys, queries, int(mask is not None))
            for top in () if tops is None else (tops.at(1, 0), tops.at(1, 1)):
                self.b.matmul(bank.at(1, j), top.slice(1, j, 1).broadcast([self.keys]), self._one, 1)

    def _mask_of(self, here: ShortSequence, unit: HeadGroup) -> View | None:
        """The mask of a unit, [queries, group, keys]."""
        if self._added is None:
            return None
        own = self._added.at(1, here.mask_number)
        return own.slice(1, unit.head, unit.group) if own.shape[1] > 1 else own.broadcast((unit.group, self.keys))

    def _operands(self, here: AttentionSequence, unit: HeadGroup, j: int) -> tuple[View, View]:
        """Queries and keys of head `j` of a unit, features on partitions."""
        lane, tile = self._place(unit, unit.first + j, unit.period, self.size)
        return here.q.slice(0, lane, self.size).at(1, tile), here.k.slice(0, lane, self.size).at(1, tile)

    def _weigh(self, unit: HeadGroup, number: int) -> None:
        """The powers of a unit, keys on partitions."""
        self._shifted.make(self._turned(unit, number, self.apart), self._score_bank(unit, number).flat())

    def _panel(self, here: ShortSequence) -> View:
        return self.panels[here.number % len(self.panels)]

    def _bring(self, here: ShortSequence) -> None:
        """The values of a sequence with keys on partitions."""
        if self.product is not None:
            self._make_values(self.product, here)
            return
        tensor, panel = self.k.tensor(self.op.v), self._panel(here)
        assert isinstance(tensor, SbufTensor)
        features, elements = tensor.whole.at(2, here.batch), self.heads * self.value_size
        turned = self.turning(self.dtype)((self.keys, elements))
        for start in range(0, elements, LANES):
            size = min(LANES, elements - start)
            self.b.transpose(turned.slice(1, start, size), features.slice(0, 0, size).at(1, start // LANES))
        self.b.copy(panel.slice(2, 0, self.value_size), turned.split(0, (self.heads, self.value_size)))

    def _make_values(self, product: RowProduct, here: ShortSequence) -> None:
        """The same, by a product that leaves rows on partitions."""
        size, rows = self.value_size, (here.batch * self.keys, self.keys)
        for head in range(0, self.heads, self._heads_of_values):
            count = min(self._heads_of_values, self.heads - head)
            bank = self._sums((self.keys, count * size))
            product.fill(bank, rows, head * size)
            place = self._panel(here).slice(1, head, count).slice(2, 0, size)
            self.b.copy(place, bank.split(0, (count, size)))

    def _context_of(self, here: ShortSequence, unit: HeadGroup, number: int) -> None:
        """The rows of the result of one unit: powers . v / powers . 1."""
        rows, group, size = self.queries, unit.group, self.value_size + 1
        bank = self._weighted((rows, group, size))
        turned, panel = self._turned(unit, number, self.apart).split(0, (group, rows)), self._panel(here)
        for j in range(group):
            self.b.matmul(bank.at(1, j), turned.at(1, j), panel.at(1, unit.head + j), 0)
        inverse = self.ring("inverse", (rows, self.groups.group), "f32", "sbuf", 2).take((rows, group))
        self.e.reciprocal(inverse, bank.at(2, size - 1))
        target = here.result(unit.tile).slice(1, unit.head * self.value_size, group * self.value_size)
        self.e.tensors(
            target.split(0, (group, size - 1)), bank.slice(2, 0, size - 1), inverse.insert(1, size - 1), "multiply"
        )

    def _finish(self, here: AttentionSequence, tile: Tile) -> None:
        """Put the rows of a sequence where the result lies."""
        if isinstance(self.out, SbufTensor):
            turn_rows(self.k, self.out.whole.at(2, here.batch), here.result(tile), bank=self.turning(self.out_dtype))
        else:
            super()._finish(here, tile)


def _diagonal(size: int, factor: float) -> list[Operation]:
    """Recipe of [size, size] bf16: `factor` on the diagonal."""
    indices = np.arange(size, dtype=np.float32)
    rows, columns = ConstantOp(indices[:, None], F32, (size, 1)), ConstantOp(indices[None, :], F32, (1, size))
    same = CompareOp(CompareKind.EQ, rows.result, columns.result)
    on, off = ConstantOp(factor, BF16, ()), ConstantOp(0.0, BF16, ())
    return [rows, columns, same, on, off, SelectOp(same.result, on.result, off.result)]
