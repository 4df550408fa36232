"""Attention with keys on partitions: the powers of the scores are made where the context is to contract them.

For each tile of queries and each group of heads whose scores fill one PSUM bank:

    scores[q, head, key]  = qT[d, q]^T . kT[d, key]                     tensor engine, for their greatest alone
    top[q, head]          = -max over the keys
    turned[key, head, q]  = kT[d, key]^T . qT[d, q] + 1 . top[head, q]  tensor engine, into PSUM
    powers[key, head, q]  = exp(turned * scale)                         rounded to v's type
    context[q, head, :]   = powers^T . v[key, :] / (powers^T . 1)       tensor engine; divided as it leaves PSUM

Against `attention_rows.py` the tensor engine makes the scores twice and adds the maxima, but turns no powers, and
powers do not pass through PSUM a second time: where engines take turns at PSUM, that is what attention waits for.
A mask of 16 bits is added to both by the tensor engine (`attention_masks.py`), for free as far as the others go.

The maxima of all heads of a tile are turned together, as two 16-bit rows for each head whose sum they are: exact
enough, as any number near the greatest score serves if all keys of a query see the same.

Where the scores of a head fill several banks, a unit is one head, maxima are taken bank by bank, and a loop goes over
the tiles of queries.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil

from lowering.graph_to_tile.attention_kernel import Attention, AttentionSequence
from lowering.graph_to_tile.attention_masks import AddedMask
from lowering.graph_to_tile.attention_operands import FEATURES, same_head
from lowering.graph_to_tile.attention_plan import (
    HeadGroup,
    HeadGroups,
    PlanFigures,
    Tile,
    even_tiles,
    heads_together,
    keys_pay,
    sequences_together,
)
from lowering.graph_to_tile.attention_powers import is_shifted
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pipelining import Ring, Stage, Unit, neighbours_apart, pipelined
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from lowering.graph_to_tile.turning import Bank, turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import F32, dtype_by_name
from neuron_dialects.graph import AttentionOp, spec_of

At = Callable[[Unit], tuple[AttentionSequence, HeadGroup]]
"""What a unit works on."""

PARTS = 2
"""Rows of 16 bits whose sum is a maximum."""

MOST_UNITS = 12
"""Units of a sequence that are written out one by one."""

MOST_LONG_UNITS = 16
"""The same of a tile of queries whose keys fill several banks of PSUM: a loop goes over these tiles."""

POWERS_AHEAD = 3
"""How many units the powers are made ahead of the step in which a unit is finished; its context one unit ahead."""

MASK_AHEAD = POWERS_AHEAD + 2
"""The same of the maxima beyond the units of a tile of queries, if these take turns; masks two units earlier."""

TURNING_SLOTS = 4
"""Parts of a bank of PSUM at most: 256 elements of 16 bits each."""

SCORE_BANKS = 3
"""Banks of PSUM for scores: a maximum is read from one, powers from another."""


def keys_on_partitions(k: Kernel, op: AttentionOp) -> bool:
    """Whether this kernel can lower the attention, and is estimated to be faster."""
    if not k.takes("key-scores") or op.causal or op.scale.value.data <= 0 or not _mask_fits(k, op):
        return False
    if any(spec_of(value)[0].name != "bf16" for value in (op.q, op.k, op.v)):
        return False
    places = (k.tensor(value) for value in (op.q, op.k))
    if not all(isinstance(place, SbufTensor) and place.partition == FEATURES for place in places):
        return False
    (batch, queries, _), keys = spec_of(op.q)[1], spec_of(op.k)[1][1]
    heads, kv_heads = op.heads.value.data, op.kv_heads.value.data
    bank = int(k.target.psum_bank_bytes) // F32.size_bytes
    groups = HeadGroups.plan(heads, kv_heads, op.head_size, op.value_size, keys, bank)
    rows, group = min(LANES, queries), groups.group
    fits = max(min(keys, bank), rows, op.value_size + 1) * group <= bank
    tile_units, together = ceil(heads / group), heads_together(group, op.value_size)
    if keys > bank:
        even = op.mask is None and even_tiles(queries, LANES) is not None
        written = even and POWERS_AHEAD <= tile_units <= MOST_LONG_UNITS
    else:
        units, least = ceil(queries / LANES) * tile_units, _least_units(op, tile_units)
        written = sequences_together(batch, units, least, MOST_UNITS) is not None
    whole = heads == kv_heads and together > 0 and heads % together == 0
    if not (fits and whole and written) or PARTS * heads > min(LANES, int(k.target.pe_columns)):
        return False
    return keys_pay(PlanFigures(rows, keys, op.value_size, op.mask is not None, is_shifted(op)), k.target)


def _mask_fits(k: Kernel, op: AttentionOp) -> bool:
    """Whether the tensor engine can add the mask, if there is one."""
    if op.mask is None:
        return True
    if spec_of(op.mask)[0].name != "bf16" or op.scale.value.data != 1.0 or k.target.pe_columns < LANES:
        return False
    return not isinstance(k.tensor(op.mask), SbufTensor)


class KeyAttention(Attention):
    """Emits one attention.

    `added`: its mask. `tiles_in_turn`: tiles of queries of an iteration, which goes over one sequence or several.
    """

    added: AddedMask | None = None
    tiles_in_turn: int = 1

    def turning(self, dtype: str) -> Bank:
        """Parts of one bank of PSUM through which turned blocks leave the array."""
        if "slots" not in self.rings:
            elements = int(self.k.target.psum_bank_bytes) // dtype_by_name(dtype).size_bytes
            bank = self.b.alloc_outer((min(LANES, self.columns), elements), dtype, "psum", "turned").view()
            slots, numbers = elements // self._slot_elements, iter(range(elements))
            self.rings["slots"] = Ring(
                lambda: bank.slice(1, next(numbers) * self._slot_elements, self._slot_elements), slots
            )
        return self.rings["slots"].take

    @property
    def _slot_elements(self) -> int:
        """Elements of a part: the values of a unit, which are turned together, and no fewer than a tile of a result."""
        elements = int(self.k.target.psum_bank_bytes) // dtype_by_name(self.dtype).size_bytes
        return elements // (elements // max(elements // TURNING_SLOTS, self.groups.group * self.value_size))

    @property
    def _turned_elements(self) -> int:
        return self.bank

    @cached_property
    def _selector(self) -> View:
        """[2 * heads, heads]: column h has ones in the two rows of head h."""
        source = self.k.derive(f"attention.heads.{self.heads}", [], lambda _: same_head(self.heads, PARTS))
        shape = (PARTS * self.heads, self.heads)
        loaded = self.b.alloc_outer(shape, "f32", "sbuf", "heads").view()
        self.b.load(loaded, source.view())
        selector = self.b.alloc_outer(shape, "bf16", "sbuf", "selector").view()
        self.b.copy(selector, loaded)
        return selector

    @cached_property
    def _ones(self) -> View:
        """A column of ones for each key."""
        ones = self.b.alloc_outer((min(LANES, self.keys), 1), self.dtype, "sbuf", "ones").view()
        self.b.memset(ones, 1.0)
        return ones

    @cached_property
    def _panel(self) -> View | None:
        """[128 positions, tiles, heads, value size + 1]: values of a sequence, and a column of ones for each head.

        None where the values lie on chip so, without the ones.
        """
        tensor = self.k.tensor(self.op.v)
        if isinstance(tensor, SbufTensor) and tensor.partition == 1:
            return None
        shape = (min(LANES, self.keys), ceil(self.keys / LANES), self.heads, self.value_size + 1)
        panel = self.b.alloc_outer(shape, self.dtype, "sbuf", "v").view()
        self.b.memset(panel.slice(3, self.value_size, 1), 1.0)
        return panel

    def run(self) -> None:
        """All sequences, one after the other; without a gap where a bank of PSUM holds the scores of all keys."""
        self._begin()
        _ = self._panel or self._ones
        tiles = self._tiles()
        made = self._projections()
        if self.keys > self.bank:
            made.begin(self.batch)
            with self.b.loop(self.batch) as i:
                self._long_sequence(AttentionSequence(self, i), tiles)
            return
        units = [unit for tile in tiles for unit in self._units(tile)]
        each = len(units) // len(tiles)
        together = sequences_together(self.batch, len(units), _least_units(self.op, each), MOST_UNITS) or 1
        count = together * len(units)
        self.tiles_in_turn = together * len(tiles)
        # Where tiles of queries take turns at their maxima, these are turned a step earlier.
        first = each + POWERS_AHEAD + 1 + int(self.tiles_in_turn > 1)
        if isinstance(self.mask, DramTensor):
            self.added = AddedMask(
                self.k, self.mask, min(LANES, self.queries), self.groups.group, neighbours_apart(count, first - 1)
            )
            self.added.prepare()

        def place(unit: Unit) -> Unit:
            """The sequence of a unit, and its number there."""
            return unit[0] * together + unit[1] // len(units), unit[1] % len(units)

        others = made.stages_in_order(self.batch, len(units), first + made.units_ahead(len(units), each), place)
        known: dict[Affine, AttentionSequence] = {}

        def at(unit: Unit) -> tuple[AttentionSequence, HeadGroup]:
            sequence, number = place(unit)
            return known.setdefault(sequence, AttentionSequence(self, sequence)), units[number]

        stages = self._stages(at, others, each, count, first)
        pipelined(self.b, self.batch // together, count, stages, deep=True)

    def _begin(self) -> None:
        """What all sequences share beside the values."""
        _ = self._selector

    def _long_sequence(self, here: AttentionSequence, tiles: Sequence[Tile]) -> None:
        """One sequence, a loop over its tiles of queries."""
        step, units = tiles[1].start.constant if len(tiles) > 1 else 0, self._units(tiles[0])

        def at(unit: Unit) -> tuple[AttentionSequence, HeadGroup]:
            return here, replace(units[unit[1]], tile=replace(tiles[0], start=unit[0] * step))

        count = len(units)
        # Units of a tile stand in several iterations of the loop, so that all tiles share one result.
        here.result_copies = 1
        stages = self._stages(at, (), count, count, count + POWERS_AHEAD + 1)
        pipelined(self.b, len(tiles), count, stages, deep=True)

    def _stages(self, at: At, others: Sequence[Stage], each: int, count: int, first: int) -> tuple[Stage, ...]:
        """The stages of a unit; `each`: units of a tile of queries, `first`: how far ahead maxima are made."""
        copies, added = neighbours_apart(count, POWERS_AHEAD - 1), self.added

        def mask(unit: Unit) -> None:
            if added is not None:
                here, own = at(unit)
                added.load(here.batch, own, unit[1])

        def bound(unit: Unit) -> None:
            if added is not None:
                added.bound(at(unit)[1], unit[1])

        def power(unit: Unit) -> None:
            self._turned_powers(*at(unit), unit[1], copies, unit[1] // each)

        def values(unit: Unit) -> None:
            if at(unit)[1].tile.start == Affine(0):
                self._bring_values(*at(unit))

        masks = () if added is None else (Stage(mask, first + 2), Stage(bound, first + 1))
        part, top, turn = self._maxima(at, each, first)
        return (
            *masks,
            *others[:1],
            *part,
            Stage(power, POWERS_AHEAD),
            *others[1:2],
            Stage(lambda unit: self._finish_unit(*at(unit), unit[1], copies), 0),
            Stage(lambda unit: self._context(*at(unit), unit[1], copies), 1),
            Stage(values, each + 1),
            *top,
            *others[2:],
            *turn,
        )

    @cached_property
    def _tiles_apart(self) -> int:
        """Copies of what tiles of queries take in turn."""
        return neighbours_apart(self.tiles_in_turn)

    # -- maxima --------------------------------------------------------------------------------------------------------

    def _maxima(self, at: At, each: int, first: int) -> tuple[Sequence[Stage], Sequence[Stage], Sequence[Stage]]:
        """The stages that part the maxima of a tile of queries, that make those of a unit, and that turn the parts."""

        def top(unit: Unit) -> None:
            self._top(*at(unit), unit[1], unit[1] // each)

        def part(unit: Unit) -> None:
            if at(unit)[1].last:
                self._part_tops(at(unit)[1], unit[1] // each)

        def turn(unit: Unit) -> None:
            if at(unit)[1].last:
                self._turn_tops(at(unit)[1], unit[1] // each)

        return (Stage(part, first - 1),), (Stage(top, first),), (Stage(turn, first - 1),)

    def _top(self, here: AttentionSequence, unit: HeadGroup, number: int, tile: int) -> None:
        """Minus the greatest score of each query of a unit, which has `number` and is of `tile` of the iteration."""
        rows, group = unit.tile.rows, unit.group
        target = self._tops(rows, tile).slice(1, unit.head, group)
        if self.keys > self.bank:
            self._long_top(here, unit, target)
            return
        scores = self._score_bank((rows, group, self.keys))
        for j in range(group):
            self._products(scores.at(1, j), here, unit, j, (Affine(0), self.keys))
        if self.added is not None:
            self.added.add(scores, unit, number)
        self.b.reduce(target, scores, "maximum", negate=True)

    def _long_top(self, here: AttentionSequence, unit: HeadGroup, target: View) -> None:
        """The same of a unit of one head whose scores fill several banks."""
        rows, parts = unit.tile.rows, ceil(self.keys / self.bank)
        size = ceil(self.keys / parts)
        greatest = self.ring("greatest", (min(LANES, self.queries), parts), "f32", "sbuf", 2).take((rows, parts))
        for number, start in enumerate(range(0, self.keys, size)):
            count = min(size, self.keys - start)
            scores = self._score_bank((rows, count))
            self._products(scores, here, unit, 0, (Affine(start), count))
            self.b.reduce(greatest.slice(1, number, 1), scores, "maximum")
        self.b.reduce(target, greatest, "maximum", negate=True)

    def _score_bank(self, shape: tuple[int, ...]) -> View:
        return self.ring("scores", (LANES, self.bank), "f32", "psum", SCORE_BANKS).take(shape)

    def _tops(self, rows: int, tile: int) -> View:
        """[rows, heads] for minus the maxima of a tile of queries."""
        return self.ring("tops", (min(LANES, self.queries), self.heads), "f32", "sbuf", 2).take(
            (rows, self.heads), tile
        )

    def _parts(self, rows: int, tile: int) -> View:
        """[rows, 2, heads] for their 16-bit parts."""
        shape = (min(LANES, self.queries), PARTS * self.heads)
        return self.ring("parts", shape, "bf16", "sbuf", self._tiles_apart).take((rows, PARTS, self.heads), tile)

    def _part_tops(self, unit: HeadGroup, tile: int) -> None:
        """The maxima of a tile of queries as sums of two 16-bit numbers."""
        tops, parts = self._tops(unit.tile.rows, tile), self._parts(unit.tile.rows, tile)
        self.b.copy(parts.at(1, 0), tops)
        self.b.tensor_tensor(parts.at(1, 1), tops, parts.at(1, 0), "subtract")

    def _turned_tops(self, rows: int, tile: int) -> View:
        """[2 * heads, rows] for the parts with heads on partitions."""
        shape = (PARTS * self.heads, min(LANES, self.queries))
        return self.ring("turned_tops", shape, "bf16", "sbuf", self._tiles_apart).take((PARTS * self.heads, rows), tile)

    def _turn_tops(self, unit: HeadGroup, tile: int) -> None:
        """The parts of a tile of queries with heads on partitions."""
        rows = unit.tile.rows
        turned = self.turning("bf16")((PARTS * self.heads, rows))
        self.b.transpose(turned, self._parts(rows, tile).flat())
        self.b.copy(self._turned_tops(rows, tile), turned)

    # -- powers --------------------------------------------------------------------------------------------------------

    def _turned_powers(self, here: AttentionSequence, unit: HeadGroup, number: int, copies: int, tile: int) -> None:
        """exp of the scores of a unit less their maxima, keys on partitions."""
        powers, (rows, group) = self._turned(unit, number, copies), (unit.tile.rows, unit.group)
        whole = rows * group * ceil(self.keys / LANES)
        shared = self._score_bank((min(LANES, self.keys), whole)) if whole <= self.bank else None
        for start, count, lanes, place in self._pieces(unit):
            width = group * count * rows
            bank = (
                self._score_bank((lanes, width)) if shared is None else shared.slice(0, 0, lanes).slice(1, place, width)
            )
            for j in range(group):
                with self.b.loop(count) as i:
                    scores = bank.split(0, (group, count, rows)).at(1, j).at(1, i)
                    self._lowered_products(scores, here, unit, j, (i + start) * LANES, tile)
                    if self.added is not None:
                        self.added.add_turned(scores, unit, number, j, (i + start) * LANES)
            target = powers.slice(0, 0, lanes).slice(1, place, bank.free_elements)
            self._power(target, bank)

    def _power(self, target: View, scores: View) -> None:
        """target = exp of scores [keys, elements] that were lowered before."""
        self.b.activation(target, scores, "exp", self.op.scale.value.data)

    def _lowered_products(
        self, scores: View, here: AttentionSequence, unit: HeadGroup, j: int, start: Affine, tile: int
    ) -> None:
        """scores [keys, rows] = k . q^T - maximum of head `j` of a unit, for the keys from `start` on."""
        rows, lanes, head, shared = unit.tile.rows, min(self.size, LANES), unit.first + j, self.heads // self.kv_heads
        lane, column = self._place(unit, head, unit.period, self.size)
        kv_lane, kv_column = self._place(unit, head // shared, max(1, unit.period // shared), self.size)
        for low in range(0, scores.partitions, self.columns):
            part = scores.slice(0, low, min(self.columns, scores.partitions - low))
            begun = self._lower(part, unit, j, tile)
            with self.b.loop(ceil(self.size / LANES)) as i:
                left = here.k.slice(0, kv_lane, lanes).at(1, kv_column + i).slice(1, start + low, part.partitions)
                right = here.q.slice(0, lane, lanes).at(1, column + i).slice(1, unit.tile.start, rows)
                self.b.matmul(part, left, right, 1 if begun else i)

    def _lower(self, part: View, unit: HeadGroup, j: int, tile: int) -> bool:
        """Begin scores [keys, rows] of head `j` of a unit with minus the maxima; whether anything was begun."""
        chosen = self._selector.slice(1, unit.head + j, 1).broadcast([part.partitions])
        self.b.matmul(part, chosen, self._turned_tops(unit.tile.rows, tile), 0)
        return True

    # -- context -------------------------------------------------------------------------------------------------------

    def _bring_values(self, here: AttentionSequence, unit: HeadGroup) -> None:
        """The values of a unit's heads in the panel, where those of the sequence before have been used.

        Where units share a tile of features, its last one brings those of all: only then nobody needs the ones before.
        """
        panel, tensor = self._panel, self.k.tensor(self.op.v)
        if panel is None:
            return
        together = heads_together(unit.group, self.value_size)
        head = unit.head.constant + unit.group - together
        if head % together:
            return
        first, elements = head * self.value_size, together * self.value_size
        heads = panel.slice(2, head, together).slice(3, 0, self.value_size)
        if isinstance(tensor, SbufTensor):
            blocks = tensor.whole.at(2, here.batch).slice(1, first // LANES, elements // LANES)
            full, rest = divmod(self.keys, LANES)
            most = max(1, self._slot_elements // elements)
            for start in range(0, full, most):
                self._turn_values(heads.slice(1, start, min(most, full - start)), blocks, start * LANES)
            if rest:
                self._turn_values(heads.slice(0, 0, rest).slice(1, full, 1), blocks, full * LANES)
            return

        def rows(start: Affine, count: int) -> None:
            part = tensor.view(
                {0: (here.batch, 1), 1: (start, count), FEATURES: (Affine(first), elements)}, [1, FEATURES]
            )
            self.b.load(heads.slice(0, 0, count).at(1, start.divided(LANES)), part)

        self.b.tiles(self.keys, LANES, rows)

    def _turn_values(self, place: View, blocks: View, start: int) -> None:
        """place [positions, tiles of them, heads, size] from `blocks` [128 features, tiles, positions] at `start`."""
        (lanes, count, *heads), tiles = place.shape, blocks.shape[1]
        for low in range(0, lanes, self.columns):
            width = min(self.columns, lanes - low)
            turned = self.turning(self.dtype)((width, count, tiles, LANES))
            for i in range(count):
                with self.b.loop(tiles) as j:
                    block = blocks.at(1, j).slice(1, start + i * LANES + low, width)
                    self.b.transpose(turned.at(1, i).at(1, j), block)
            self.b.copy(place.slice(0, low, width), turned.flat().split(0, (count, *heads)))

    def _context(self, here: AttentionSequence, unit: HeadGroup, number: int, copies: int) -> None:
        """The rows of the result of one unit: powers . v / powers . 1."""
        rows, group, size = unit.tile.rows, unit.group, self.value_size + 1
        shape = (min(LANES, self.queries), self.groups.group * size)
        bank = self.ring("weighted", shape, "f32", "psum", 2).take((rows, group, size))
        turned = self._turned(unit, number, copies)
        for start, count, lanes, place in self._pieces(unit):
            tiles = turned.slice(0, 0, lanes).slice(1, place, group * count * rows).split(0, (group, count, rows))
            for j in range(group):
                for low in range(0, rows, self.columns):
                    part = bank.slice(0, low, min(self.columns, rows - low)).at(1, j)
                    with self.b.loop(count) as i:
                        left = tiles.at(1, j).at(1, i).slice(1, low, part.partitions)
                        self._weigh(part, left, here, unit.head + j, start + i)
        inverse = self.ring("inverse", (*shape[:1], self.groups.group), "f32", "sbuf", 2).take((rows, group))
        self.e.reciprocal(inverse, bank.at(2, size - 1))
        target = self._rows(here, unit, number, copies).split(0, (group, size - 1))
        self.e.tensors(target, bank.slice(2, 0, size - 1), inverse.insert(1, size - 1), "multiply")

    def _weigh(self, bank: View, powers: View, here: AttentionSequence, head: Affine, tile: Affine) -> None:
        """bank [rows, value size + 1] (+)= powers [keys, rows]^T . (v [keys, value size], 1) for a tile of keys."""
        size, panel = self.value_size, self._panel
        if panel is not None:
            self.b.matmul(bank, powers, panel.slice(0, 0, powers.partitions).at(1, tile).at(1, head), tile)
            return
        values = here.v.slice(0, 0, powers.partitions).at(1, tile).slice(1, head * size, size)
        self.b.matmul(bank.slice(1, 0, size), powers, values, tile)
        self.b.matmul(bank.slice(1, size, 1), powers, self._ones.slice(0, 0, powers.partitions), tile)

    def _rows(self, here: AttentionSequence, unit: HeadGroup, number: int, copies: int) -> View:
        """Where the rows of the result of a unit go, [rows, group * size]."""
        elements = self.groups.group * self.value_size
        if not isinstance(self.out, SbufTensor) or elements % LANES:
            return here.result(unit.tile).slice(1, unit.head * self.value_size, elements)
        ring = self.ring("context", (min(LANES, self.queries), elements), self.out_dtype, "sbuf", copies)
        return ring.take((unit.tile.rows, elements), number)

    def _finish_unit(self, here: AttentionSequence, unit: HeadGroup, number: int, copies: int) -> None:
        """Put the rows of a unit where the result lies."""
        if not isinstance(self.out, SbufTensor):
            if unit.last:
                self._finish(here, unit.tile)
            return
        if unit.group * self.value_size % LANES:
            if unit.last:
                panel = self.out.whole.at(2, here.batch).slice(2, unit.tile.start, unit.tile.rows)
                tiles = self.heads * self.value_size // LANES
                parts = ceil(tiles * unit.tile.rows / self._slot_elements)
                turn_rows(self.k, panel, here.result(unit.tile), parts=parts, bank=self.turning(self.out_dtype))
            return
        tiles = unit.group * self.value_size // LANES
        place = (unit.head * self.value_size).divided(LANES)
        panel = self.out.whole.at(2, here.batch).slice(1, place, tiles).slice(2, unit.tile.start, unit.tile.rows)
        turn_rows(self.k, panel, self._rows(here, unit, number, copies), bank=self.turning(self.out_dtype))


def _least_units(op: AttentionOp, each: int) -> int:
    """Units of an iteration at least, `each` of them of a tile of queries."""
    return POWERS_AHEAD if op.mask is None else MASK_AHEAD + each
