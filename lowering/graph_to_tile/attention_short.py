"""Attention over many short sequences, each one tile of queries and keys: several sequences in one iteration of a loop.

For each sequence and each group of heads whose scores fill one PSUM bank:

    scores[q, head, key] = 1 . mask[q, head, key] / scale + qT[d, q]^T . kT[d, key]   tensor engine, into PSUM
    top[q, head]         = -max over the keys, rounded
    scores              += 1 . top[q, head]                                           tensor engine, as the same sum
    powers[q, head, key] = exp(scores * scale)                                        rounded to v's type
    turned[key, head, q] = powers^T                                                   tensor engine, through PSUM
    context[q, head, :]  = turned^T . (v[key, :], 1)                                  divided by its last column

Against `attention_rows.py` the tensor engine, which has time, adds masks, maxima and sums up the powers, so that each
of the other engines has one instruction for all heads of a group. Any number near the greatest score serves for a
maximum if all keys of a query see the same, so that it may be rounded.

The mask stays on chip. If it repeats after some sequences, a loop over these stands in a loop over the batch.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from math import ceil

import numpy as np
from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.attention_masks import bound, bounded_parameter
from lowering.graph_to_tile.attention_operands import FEATURES
from lowering.graph_to_tile.attention_plan import HeadGroup, HeadGroups, Tile, sequences_in_iteration
from lowering.graph_to_tile.attention_projections import Projections
from lowering.graph_to_tile.attention_rows import Attention, AttentionSequence
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pipelining import Ring, Stage, Unit, neighbours_apart, pipelined
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from lowering.graph_to_tile.turning import Bank, turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import BF16, F32
from neuron_dialects.graph import AttentionOp, CompareKind, CompareOp, ConstantOp, SelectOp, spec_of

LEAST_SEQUENCES = 16
"""Fewer sequences are worked on one by one."""

MASK_SHARE = 8
"""A mask stays on chip where it takes at most one part of so many of SBUF."""

SCORES_AHEAD, TOPS_AHEAD, TURNED_AHEAD, CONTEXT_AHEAD = 4, 3, 2, 1
"""How many units ahead of the step in which its result is stored the stages of a unit are emitted."""

MOST_BANKS = 4
"""Banks of PSUM for scores at most: one is filled, one waits for its maxima, powers are read from one."""

MOST_SLOTS = 4
"""Parts of a bank of PSUM at most."""


def is_short(k: Kernel, op: AttentionOp) -> bool:
    """Whether this kernel can lower the attention."""
    sequences, queries, _ = spec_of(op.q)[1]
    lanes, bank = min(LANES, int(k.target.pe_columns)), int(k.target.psum_bank_bytes) // F32.size_bytes
    if not k.takes("short-sequences") or op.causal or op.scale.value.data <= 0 or sequences < LEAST_SEQUENCES:
        return False
    if queries != spec_of(op.k)[1][1] or queries > lanes or op.heads.value.data != op.kv_heads.value.data:
        return False
    if any(spec_of(value)[0] is not BF16 for value in (op.q, op.k, op.v)) or op.head_size > LANES:
        return False
    places = (k.tensor(value) for value in (op.q, op.k, op.v))
    if not all(isinstance(place, SbufTensor) and place.partition == FEATURES for place in places):
        return False
    return queries <= bank and op.value_size < bank and (op.mask is None or _stays_on_chip(k, op.mask, queries))


def _stays_on_chip(k: Kernel, mask: SSAValue, queries: int) -> bool:
    """Whether a mask is one for each query and key, in DRAM, and small enough to be brought on chip as a whole."""
    dtype, shape = spec_of(mask)
    if dtype is not BF16 or len(shape) != 4 or shape[2:] != (queries, queries):
        return False
    room = int(k.target.sbuf_bytes_per_partition) // MASK_SHARE
    return isinstance(k.tensor(mask), DramTensor) and shape[0] * shape[1] * queries * dtype.size_bytes <= room


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
    banks: int

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

    @cached_property
    def _one(self) -> View:
        return self._identity(1.0)

    @cached_property
    def _unscaled(self) -> View:
        """What multiplies a mask so that the scale of the scores takes it back."""
        return self._identity(1.0 / self.op.scale.value.data)

    @cached_property
    def _weighted(self) -> Bank:
        return self._slots("weighted", self.groups.group * (self.value_size + 1))

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
        self._prepare_constants()
        banks = self._slots("sum", self.queries)
        made = Projections(self.b, self.k.postponed.pop(self.op, []), self.keys, lambda: banks)
        period = self.op.mask_period
        together = sequences_in_iteration(self.batch, period, len(units))
        self.panels = self._panels(together, len(units))
        if together % period == 0:
            self._sequences(Affine(0), self.batch, together, units, made)
        else:
            with self.b.loop(self.batch // period) as i:
                self._sequences(i * period, period, together, units, made)

    def _prepare_constants(self) -> None:
        """What all units share."""
        _ = self._one, self._added and self._unscaled

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

        results = self._results(together)

        def at(unit: Unit) -> ShortUnit:
            trip, (number, part) = unit[0], divmod(unit[1], each)
            offset = trip * together + number
            if (trip, number) not in known:
                mask_number = offset if together % period else Affine(number % period)
                known[trip, number] = ShortSequence(self, first + offset, number, mask_number, results)
            return known[trip, number], units[part]

        def place(unit: Unit) -> tuple[Affine, int]:
            number, part = divmod(unit[1], each)
            return first + unit[0] * together + number, part

        ahead = ceil(SCORES_AHEAD / each) + 1
        made.begin(min(ahead, count), first)
        others = made.stages(each, ahead * each, place) if made else []
        copies = neighbours_apart(together * each, TOPS_AHEAD - CONTEXT_AHEAD)
        self.banks = copies if copies <= MOST_BANKS else neighbours_apart(together * each)
        pipelined(self.b, count // together, together * each, self._stages(at, copies, others), deep=True)

    def _results(self, together: int) -> int:
        """Tiles for results that `together` sequences of an iteration take in turn."""
        return 2

    def _stages(self, at: Callable[[Unit], ShortUnit], copies: int, others: Sequence[Stage]) -> tuple[Stage, ...]:
        def values(unit: Unit) -> None:
            here, own = at(unit)
            if own.head == Affine(0):
                self._bring(here)

        def finish(unit: Unit) -> None:
            here, own = at(unit)
            if own.last:
                self._finish(here, own.tile)

        return (
            *others[:1],
            Stage(lambda unit: self._score(*at(unit), unit[1], copies), SCORES_AHEAD),
            *others[1:2],
            Stage(lambda unit: self._turn_powers(at(unit)[1], unit[1], copies), TURNED_AHEAD),
            Stage(lambda unit: self._weigh(at(unit)[1], unit[1], copies), TOPS_AHEAD),
            *others[2:],
            Stage(finish, 0),
            Stage(lambda unit: self._context_of(*at(unit), unit[1], copies), CONTEXT_AHEAD),
            Stage(values, TURNED_AHEAD),
        )

    # -- stages --------------------------------------------------------------------------------------------------------

    def _bank(self, unit: HeadGroup, number: int) -> View:
        """PSUM for the scores of a unit, [queries, group, keys]."""
        ring = self.ring("scores", (LANES, self.bank), "f32", "psum", self.banks)
        return ring.take((self.queries, unit.group, self.keys), number)

    def _top(self, unit: HeadGroup, number: int, copies: int) -> View:
        """Minus the maxima of a unit, [queries, group]."""
        ring = self.ring("top", (self.queries, self.groups.group), self.dtype, "sbuf", copies)
        return ring.take((self.queries, unit.group), number)

    def _score(self, here: ShortSequence, unit: HeadGroup, number: int, copies: int) -> None:
        """Scores and mask of a unit in PSUM; their maxima."""
        bank, mask = self._bank(unit, number), self._added
        if mask is not None:
            own = mask.at(1, here.mask_number)
            own = own.slice(1, unit.head, unit.group) if own.shape[1] > 1 else own.broadcast(bank.shape[1:])
            self.b.matmul(bank, self._unscaled, own, 0)
        for j in range(unit.group):
            self._product(bank.at(1, j), here, unit, j, int(mask is not None))
        self.b.reduce(self._top(unit, number, copies), bank, "maximum", negate=True)

    def _product(self, bank: View, here: AttentionSequence, unit: HeadGroup, j: int, adds: int) -> None:
        """bank [queries, keys] (+)= q . k^T of head `j` of a unit."""
        lane, tile = self._place(unit, unit.first + j, unit.period, self.size)
        left, right = (x.slice(0, lane, self.size).at(1, tile) for x in (here.q, here.k))
        self.b.matmul(bank, left, right, adds)

    def _weigh(self, unit: HeadGroup, number: int, copies: int) -> None:
        """The powers of a unit."""
        bank, top = self._bank(unit, number), self._top(unit, number, copies)
        self.b.matmul(bank, self._one, top.insert(1, self.keys), 1)
        self.b.activation(self._powers_of(unit, number, copies), bank, "exp", self.op.scale.value.data)

    def _powers_of(self, unit: HeadGroup, number: int, copies: int) -> View:
        """A tile for the powers of a unit, [queries, group, keys]."""
        ring = self.ring("powers", (self.queries, self.groups.group * self.keys), self.dtype, "sbuf", copies)
        return ring.take((self.queries, unit.group, self.keys), number)

    def _turn_powers(self, unit: HeadGroup, number: int, copies: int) -> None:
        """The powers of a unit with keys on partitions."""
        powers, target = self._powers_of(unit, number, copies), self._turned(unit, number, copies)
        turned = self.turning(self.dtype)((self.keys, unit.group, self.queries))
        for j in range(unit.group):
            self.b.transpose(turned.at(1, j), powers.at(1, j))
        self.b.copy(target, turned.flat())

    def _panel(self, here: ShortSequence) -> View:
        return self.panels[here.number % len(self.panels)]

    def _bring(self, here: ShortSequence) -> None:
        """The values of a sequence with keys on partitions."""
        tensor, panel = self.k.tensor(self.op.v), self._panel(here)
        assert isinstance(tensor, SbufTensor)
        features, elements = tensor.whole.at(2, here.batch), self.heads * self.value_size
        turned = self.turning(self.dtype)((self.keys, elements))
        for start in range(0, elements, LANES):
            size = min(LANES, elements - start)
            self.b.transpose(turned.slice(1, start, size), features.slice(0, 0, size).at(1, start // LANES))
        self.b.copy(panel.slice(2, 0, self.value_size), turned.split(0, (self.heads, self.value_size)))

    def _context_of(self, here: ShortSequence, unit: HeadGroup, number: int, copies: int) -> None:
        """The rows of the result of one unit: powers . v / powers . 1."""
        rows, group, size = self.queries, unit.group, self.value_size + 1
        bank = self._weighted((rows, group, size))
        turned, panel = self._turned(unit, number, copies).split(0, (group, rows)), self._panel(here)
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
