"""Attention with queries on partitions until the context: scores, softmax and context stay on chip.

For each sequence, each tile of 128 queries and each group of heads whose scores fill one PSUM bank:

    scores[q, head, key] = qT[d, q]^T . kT[d, key]            tensor engine, into PSUM
    masked               = scores * scale + mask              only where there is a mask, or the bank is too small
    powers[q, head, key] = exp(masked - max), with row sums   rounded to v's type
    turned[key, head, q] = powers^T                           tensor engine, through PSUM
    context[q, head, :]  = turned^T . v[key, :] / row sum     tensor engine; divided as it leaves PSUM

Queries and keys are wanted with their features on partitions, values with their positions there: what lies otherwise is
turned once per sequence. No score matrix reaches DRAM. With `causal`, keys that no query of a tile sees are left out.

A tile of queries and a group of heads are one unit. Scores and powers of a unit are emitted before the context of the
unit before it (`pipelining.py`), across sequences where their queries and keys lie on chip, so that the tensor engine
has products to make while the other engines are at a softmax.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

from lowering.graph_to_tile.attention_kernel import Attention, AttentionSequence
from lowering.graph_to_tile.attention_plan import HeadGroup, Tile
from lowering.graph_to_tile.attention_projections import Projections
from lowering.graph_to_tile.pipelining import Ring, Stage, Unit, neighbours_apart, pipelined
from lowering.graph_to_tile.tensors import LANES, DramTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine

STAGES = 3
"""How many units the first stage of one runs ahead of the last stage of another, at least: one more where an iteration
has more units, so that the tensor engine has a step's time before it needs the powers that it turns."""

FEW_TILES = 2
"""Tiles of queries that no loop goes over."""

MOST_UNITS = 8
"""Units of a sequence that are written out one by one; more stay loops over groups of heads."""


class RowAttention(Attention):
    """Emits one attention, scores of a query in a row."""

    # -- units ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All sequences."""
        tiles = self._tiles()
        units = [unit for tile in tiles for unit in self._units(tile)]
        made = self._projections()
        if len(units) > MOST_UNITS:
            ahead = 1 if made and self._written_out(tiles) else self.batch
            made.begin(ahead)
            with self.b.loop(self.batch - ahead if ahead < self.batch else self.batch) as i:
                self._long_sequence(AttentionSequence(self, i), tiles, made if ahead < self.batch else None)
            if ahead < self.batch:
                self._long_sequence(AttentionSequence(self, Affine(self.batch - ahead)), tiles, None)
        elif self.operands.in_place(self.op.q) and self.operands.in_place(self.op.k):
            overlaps = len(units) >= STAGES
            made.begin(min(2, self.batch) if overlaps else self.batch)
            self._emit(units, self.batch, None, made if overlaps else None)
        else:
            made.begin(self.batch)
            with self.b.loop(self.batch) as i:
                self._emit(units, 1, i, None)

    def _written_out(self, tiles: Sequence[Tile]) -> bool:
        """Whether all units of a long sequence stand one by one, so that each can make a part of the next one."""
        even = not self.op.causal and len({tile.rows for tile in tiles}) == 1
        return even and len(tiles) <= FEW_TILES and len(self._units(tiles[0])) <= MOST_UNITS

    def _emit(self, units: Sequence[HeadGroup], sequences: int, batch: Affine | None, made: Projections | None) -> None:
        """The units of each of `sequences` sequences, or of the one sequence `batch`."""
        known: dict[Affine, AttentionSequence] = {}

        def at(unit: Unit) -> tuple[AttentionSequence, HeadGroup]:
            i, number = unit
            return known.setdefault(i, AttentionSequence(self, i if batch is None else batch)), units[number]

        if batch is None and sequences > 1 and len(units) >= STAGES:
            # Values of the next sequence take the place of this one's as soon as its last context is made.
            self.values = self.operands.panel(self.op.v)
        others = made.stages(len(units), 2 * len(units), lambda unit: unit) if made else []
        self._pipelined(sequences, len(units), at, others)

    def _pipelined(
        self,
        trips: int,
        count: int,
        at: Callable[[Unit], tuple[AttentionSequence, HeadGroup]],
        others: Sequence[Stage] = (),
    ) -> None:
        """`count` units in each of `trips` iterations; `at` gives what a unit works on, `others` go between."""
        ahead = STAGES + 1 if count > STAGES else STAGES
        copies = neighbours_apart(count, ahead - 2)
        scores: dict[Unit, tuple[View, View, float]] = {}

        def score(unit: Unit) -> None:
            scores[unit] = self._scores(*at(unit))

        def weigh(unit: Unit) -> None:
            self._powers(at(unit)[1], *scores[unit], unit[1], copies)

        def values(unit: Unit) -> None:
            if unit[1] == 0:
                at(unit)[0].bring_values()

        def finish(unit: Unit) -> None:
            here, own = at(unit)
            if own.last:
                self._finish(here, own.tile)

        stages = (
            *others[:1],
            Stage(score, ahead),
            *others[1:2],
            Stage(lambda unit: self._turn_powers(at(unit)[1], unit[1], copies), 2),
            Stage(finish, 0),
            *others[2:],
            Stage(lambda unit: self._context(*at(unit), unit[1], copies), 1),
            Stage(values, 2),
            Stage(weigh, ahead),
        )
        pipelined(self.b, trips, count, stages)

    def _long_sequence(self, here: AttentionSequence, tiles: Sequence[Tile], made: Projections | None) -> None:
        """One sequence, tile by tile of queries; `made` makes the next one on the way."""
        if self.op.causal or len({tile.rows for tile in tiles}) > 1:
            for tile in tiles:
                self._query_tile(here, tile)
            return
        step, units = tiles[1].start.constant if len(tiles) > 1 else 0, self._units(tiles[0])
        if len(units) > MOST_UNITS:
            with self.b.loop(len(tiles)) as i:
                self._query_tile(here, replace(tiles[0], start=i * step))
            return

        def at(unit: Unit) -> tuple[AttentionSequence, HeadGroup]:
            return here, replace(units[unit[1]], tile=replace(tiles[0], start=unit[0] * step))

        here.prepare(tiles[0])
        if len(tiles) > FEW_TILES:
            # Units of a tile stand in two iterations of the loop over tiles, so that all tiles share one result.
            here.result_copies = 1
        count = len(units)
        follows = here.batch + 1
        total = count * len(tiles)
        others = made.stages(total, 0, lambda unit: (follows, unit[0].constant * count + unit[1])) if made else []
        self._pipelined(len(tiles), count, at, others)

    def _query_tile(self, here: AttentionSequence, tile: Tile) -> None:
        """All heads of a tile of queries, some at a time."""
        here.prepare(tile)
        units = self._units(tile)
        period = units[0].period
        turns = self.heads // period
        each = ceil(period / self.groups.group)
        # A loop goes over so many periods at a time that its iterations overlap.
        together = next(n for n in range(1, turns + 1) if turns % n == 0 and (n * each >= STAGES or n == turns))
        firsts = range(0, period * together, self.groups.group)

        def at(unit: Unit) -> tuple[AttentionSequence, HeadGroup]:
            first = firsts[unit[1]]
            group = min(self.groups.group, period * together - first)
            return here, HeadGroup(tile, unit[0], period * together, first, group, False)

        self._pipelined(turns // together, len(firsts), at)
        rest = [unit for unit in units if unit.turn.constant >= turns]
        if rest:
            self._pipelined(1, len(rest), lambda unit: (here, rest[unit[1]]))
        else:
            self._finish(here, tile)

    # -- first stage ---------------------------------------------------------------------------------------------------

    def _powers(self, unit: HeadGroup, scores: View, lowered: View, scale: float, number: int, copies: int) -> None:
        """exp of the scores of a unit less their maxima, and the row sums; in tile `number` of `copies`."""
        powers, sums = self._weights(unit, number, copies)
        for j in range(unit.group):
            self.b.activation(
                powers.at(1, j), scores.at(1, j), "exp", scale, bias=lowered.slice(1, j, 1),
                row_sum=sums.slice(1, j, 1),
            )  # fmt: skip

    def _weights(self, unit: HeadGroup, number: int, copies: int) -> tuple[View, View]:
        """Tiles for powers [rows, group, keys] and their sums [rows, group]."""
        lanes, group = min(LANES, self.queries), self.groups.group
        powers = self.ring("powers", (lanes, group * self.keys), self.dtype, "sbuf", copies)
        sums = self.ring("sums", (lanes, group), "f32", "sbuf", copies)
        rows = unit.tile.rows
        return powers.take((rows, unit.group, unit.tile.keys), number), sums.take((rows, unit.group), number)

    def _scores(self, here: AttentionSequence, unit: HeadGroup) -> tuple[View, View, float]:
        """([rows, group, keys] before the softmax, what to add to it, factor that the softmax has to apply before)."""
        b, (rows, keys), group = self.b, (unit.tile.rows, unit.tile.keys), unit.group
        scale = self.op.scale.value.data
        banks = self.ring("scores", (min(LANES, self.queries), self.bank), "f32", "psum", 2)
        if keys * group <= self.bank and self.mask is None and not self.op.causal and scale > 0:
            scores = banks.take((rows, group, keys))
            for j in range(group):
                self._products(scores.at(1, j), here, unit, j, (Affine(0), keys))
        else:
            scores, scale = self._masked(here, unit, banks), 1.0
        lowered = b.alloc((rows, group), "f32", "sbuf", b.rotation, "top").view()
        b.reduce(lowered, scores, "maximum", negate=True)
        if scale != 1.0:
            self.e.scalar(lowered, lowered, "multiply", scale)
        return scores, lowered, scale

    def _masked(self, here: AttentionSequence, unit: HeadGroup, banks: Ring) -> View:
        """scores * scale + mask of a unit, in SBUF."""
        (rows, keys), group, scale = (unit.tile.rows, unit.tile.keys), unit.group, self.op.scale.value.data
        masked = self.ring("masked", (min(LANES, self.queries), self.groups.group * self.keys), "f32", "sbuf", 2)
        masked = masked.take((rows, group, keys))
        mask = self._mask(here, unit)
        most = min(keys, self.bank // group)
        for start in range(0, keys, most):
            size = min(most, keys - start)
            bank = banks.take((rows, group, size))
            for j in range(group):
                self._products(bank.at(1, j), here, unit, j, (Affine(start), size))
            target = masked.slice(2, start, size)
            if mask is None:
                self.e.scalar(target, bank, "multiply", scale)
            else:
                self.e.scalar_tensor(target, bank, "multiply", scale, "add", mask.slice(2, start, size))
        if self.op.causal:
            self._hide(masked, unit)
        return masked

    def _mask(self, here: AttentionSequence, unit: HeadGroup) -> View | None:
        """The mask of a unit, [rows, group, keys]."""
        b, tile = self.b, unit.tile
        if self.mask is None:
            return None
        shared = here.mask(tile)
        if shared is not None:
            return shared.insert(0).broadcast([unit.group, tile.keys])
        assert isinstance(self.mask, DramTensor)
        view = b.alloc((tile.rows, unit.group, tile.keys), "f32", "sbuf", b.rotation, "mask").view()
        part = {
            0: (here.batch, 1),
            1: (unit.head, unit.group),
            2: (tile.start, tile.rows),
            3: (Affine(0), tile.keys),
        }
        transfer(b, b.load, view, self.mask.view(part, [2, 1, 3]))
        return view

    def _hide(self, masked: View, unit: HeadGroup) -> None:
        """Hide the keys behind each query; only the last 128 keys of a tile reach beyond its first query."""
        assert self.triangle is not None
        rows, keys = unit.tile.rows, unit.tile.keys
        reach = unit.tile.start.constant + self.keys - self.queries
        low = max(0, reach + 1)
        size = keys - low
        if size <= 0:
            return
        # Query r sees the keys up to reach + r: row r of the triangle from column `skipped` on.
        skipped = low - reach
        part = self.triangle.slice(0, 0, rows).slice(1, skipped, size).insert(0).broadcast([unit.group, size])
        target = masked.slice(2, low, size)
        self.e.tensors(target, target, part, "add")

    # -- later stages --------------------------------------------------------------------------------------------------

    def _turn_powers(self, unit: HeadGroup, number: int, copies: int) -> None:
        """The powers of a unit with keys on partitions."""
        powers, _ = self._weights(unit, number, copies)
        turned, (rows, group) = self._turned(unit, number, copies), (unit.tile.rows, unit.group)
        for start, count, lanes, place in self._pieces(unit):
            target = turned.slice(1, place, group * count * rows).split(0, (group, count, rows))
            for low in range(0, lanes, self.columns):
                width = min(self.columns, lanes - low)
                out = self.turning(self.dtype)((width, group, count, rows))
                for j in range(group):
                    with self.b.loop(count) as i:
                        keys = powers.at(1, j).slice(1, (i + start) * LANES + low, width)
                        self.b.transpose(out.at(1, j).at(1, i), keys)
                self.b.copy(target.slice(0, low, width), out)

    def _context(self, here: AttentionSequence, unit: HeadGroup, number: int, copies: int) -> None:
        """The rows of the result of one unit: powers . v / sums."""
        rows, group, size = unit.tile.rows, unit.group, self.value_size
        shape = (min(LANES, self.queries), self.groups.group * size)
        bank = self.ring("weighted", shape, "f32", "psum", 2).take((rows, group, size))
        turned, values = self._turned(unit, number, copies), here.v
        shared = self.heads // self.kv_heads
        for start, count, lanes, place in self._pieces(unit):
            tiles = turned.slice(0, 0, lanes).slice(1, place, group * count * rows).split(0, (group, count, rows))
            for j in range(group):
                head = unit.turn * max(1, unit.period // shared) + (unit.first + j) // shared
                for low in range(0, rows, self.columns):
                    part = bank.slice(0, low, min(self.columns, rows - low)).at(1, j)
                    with self.b.loop(count) as i:
                        left = tiles.at(1, j).at(1, i).slice(1, low, part.partitions)
                        right = values.slice(0, 0, lanes).at(1, i + start).slice(1, head * size, size)
                        self.b.matmul(part, left, right, i + start)
        _, sums = self._weights(unit, number, copies)
        self.e.reciprocal(sums, sums)
        target = here.result(unit.tile).slice(1, unit.head * size, group * size).split(0, (group, size))
        divided = View(sums.buffer, sums.partition, sums.partitions, sums.offset, (*sums.dims, (0, size)))
        self.e.tensors(target, bank, divided, "multiply")
