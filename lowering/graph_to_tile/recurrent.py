"""Kernel template of graph.recurrent: one loop over time, hidden units on the partitions.

    sums[m, b] = sum over k tiles of  rT[k, m]^T . h[k, b]        (per gate and tile of hidden units)

The recurrence weight is the stationary operand and the state the moving one, so that a step's result lies as the next
step's operand must lie, and nothing is turned. What fits of the weight is loaded once, before the loop; the rest
streams past in every step. A step is computed in blocks of hidden units: the functions of a block run on the other
engines while the next one is multiplied. Gates and results of several steps are loaded and stored together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from xdsl.ir import Operation

from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.recurrent_cells import Block, Cell, Finish
from lowering.graph_to_tile.recurrent_plan import (
    LEAST_COLUMNS,
    STREAMED_COPIES,
    Recurrence,
    RecurrentPlan,
    plan_recurrence,
)
from lowering.graph_to_tile.recurrent_units import Piece, move_units, packed_weight, split_rows
from lowering.graph_to_tile.tensors import DramTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import CellKind, RecurrentOp, ints, spec_of


def lower_recurrent(k: Kernel, op: RecurrentOp) -> None:
    """Lower `graph.recurrent`."""
    kind, sizes = op.cell.data, op.sizes
    dtype = spec_of(op.r)[0]
    macs = kind.gates * sizes.hidden * sizes.hidden * max(LEAST_COLUMNS, sizes.batch)
    rate = k.target.peak_macs_per_ns / k.target.matmul_rate_factor(dtype.name)
    load = min(k.target.dma_rate_bytes_per_ns, float(k.target.dram_bytes_per_ns))
    layer = Recurrence(
        sizes.hidden, kind.gates, sizes.steps, sizes.batch, dtype.size_bytes, macs / rate, load,
        spec_of(op.gates)[0].size_bytes, spec_of(op.y)[0].size_bytes,
        alternates=kind in (CellKind.LSTM, CellKind.RNN) and op.mask is None,
        keeps_h=spec_of(op.final_h)[0] is not dtype,
        stores_state=spec_of(op.y)[0] is dtype,
    )  # fmt: skip
    bank_elements = min(int(k.target.psum_bank_bytes) // 4, int(k.target.pe_moving_elements))
    plan = plan_recurrence(layer, int(k.target.sbuf_bytes_per_partition) - k.resident_bytes, bank_elements)
    weight = packed_weight(k, op, plan)
    operands = {name: k.dram(value) for name, value in {"gates": op.gates, **op.optional}.items()}
    results: dict[str, DramTensor] = {}
    for name, value in (("y", op.y), ("final_h", op.final_h), ("final_c", op.final_c)):
        if value is not None and (value.first_use is not None or value in k.destinations):
            output = k.output(value)
            assert isinstance(output, DramTensor), "the layout pass leaves results of recurrent layers in DRAM"
            results[name] = output
    for direction, is_reversed in enumerate(ints(op.reversed)):
        _Direction(k, op, plan, direction, bool(is_reversed), weight, operands, results).emit()


@dataclass(frozen=True)
class _Step:
    """Views of one step: `gates` [lanes, gates, tiles, batch], `y` [lanes, tiles, batch], `mask` [lanes, batch];
    `moving` and `fresh` [lanes, tiles, batch], the state that it multiplies and the one that the next step will.
    """

    gates: View
    y: View | None
    mask: View | None
    moving: View
    fresh: View


@dataclass(frozen=True)
class _Chunk:
    """Steps (first position, number) that are loaded together: `gates` [lanes, gates, tiles, steps, batch], `y` [lanes,
    tiles, steps, batch] where results are collected, `mask` [lanes, steps, batch].
    """

    steps: Piece
    gates: View
    y: View | None
    mask: View | None


class _Direction:
    """Emits one direction of a layer."""

    def __init__(
        self,
        k: Kernel,
        op: RecurrentOp,
        plan: RecurrentPlan,
        direction: int,
        is_reversed: bool,
        weight: DramTensor,
        operands: Mapping[str, DramTensor],
        results: Mapping[str, DramTensor],
    ):
        self.k, self.b, self.op, self.plan = k, k.b, op, plan
        self.kind, self.sizes = op.cell.data, op.sizes
        self.at = {0: (Affine(direction), 1)}
        self.is_reversed = is_reversed
        self.weight, self.operands, self.results = weight, operands, results
        self.e = Emitter(k.b, k.target)
        self.cell = Cell(self.e, op.functions_of(direction), op.clip.value.data if op.clip is not None else None)
        self.linear = bool(op.linear_before_reset)
        self.masked = "mask" in operands

    # -- loops
    # ------------------------------------------------------------------------------------------------------------

    def emit(self) -> None:
        """Constants, then all sequences in groups that are computed together."""
        self.resident = self._resident_weight()
        self.peepholes = self._units("peepholes", 3)
        self.bias = self._units("recurrent_bias", 1)
        self.b.tiles(self.sizes.batch, self.plan.batch, lambda start, size: self._sequences((start, size)))

    def _sequences(self, batch: Piece) -> None:
        """All steps of a group of sequences."""
        self.batch = batch
        plan, steps = self.plan, self.sizes.steps
        shape = (plan.lanes, plan.tiles, batch[1])
        self.h = self._state("initial_h", shape, "h") if self._keeps_h else None
        self.c = self._state("initial_c", shape, "c") if self.kind is CellKind.LSTM else None
        # Where they are two, a step reads one and writes the other.
        turns = 2 if self._alternates else 1
        self.turns = [self.b.alloc(shape, self.weight.dtype, "sbuf", 1, "moving").view() for _ in range(turns)]
        self._start(self.turns[0])
        if plan.steps == 1 and self._alternates:
            self._single_steps()
        else:
            self.b.tiles(steps, plan.steps, self._chunk)
        for name, state in (("final_h", self.h or self.turns[steps % turns]), ("final_c", self.c)):
            if name in self.results and state is not None:
                window = self.results[name].view({**self.at, 2: batch}, [1, 2])
                move_units(self.k, self.b.store, state, window, 0, plan)

    def _start(self, moving: View) -> None:
        """The state that the first step multiplies."""
        if self.h is not None:
            self.b.copy(moving, self.h)
        elif "initial_h" in self.operands:
            self._fill_short(moving, 0)
            window = self.operands["initial_h"].view({**self.at, 2: self.batch}, [1, 2])
            move_units(self.k, self.b.load, moving, window, 0, self.plan)
        else:
            self.b.memset(moving, 0.0)

    def _single_steps(self) -> None:
        """Chunks of one step, in pairs. The gates of both are loaded before the first: each has its own memory then,
        so that it is filled for the next pair as soon as its step is done.
        """
        pairs, rest = divmod(self.sizes.steps, 2)
        with self.b.loop(pairs) as pair:
            chunks = [self._load(pair * 2 + turn, 1, 1) for turn in range(2)]
            for turn, chunk in enumerate(chunks):
                self._run(chunk, turn)
        if rest:
            self._run(self._load(Affine(2 * pairs), 1, 1), 0)

    @property
    def _alternates(self) -> bool:
        """Whether the new state is written beside the old one, as it will be multiplied, and nowhere else.

        The next step may begin with what there is of it. Chunks of steps but the last one are even then.
        """
        even = self.plan.steps % 2 == 0 or self.plan.steps in (1, self.sizes.steps)
        plain = self.kind in (CellKind.LSTM, CellKind.RNN) and not self.masked
        return plain and even and not self._moves_directly

    @property
    def _keeps_h(self) -> bool:
        """Whether the state is kept as f32: where it is not only multiplied."""
        final = self.results.get("final_h")
        return not self._alternates or (final is not None and final.dtype != self.weight.dtype)

    @property
    def _stores_state(self) -> bool:
        """Whether results are stored from where the next step multiplies them."""
        y = self.results.get("y")
        return self._alternates and self.plan.steps == 1 and y is not None and y.dtype == self.weight.dtype

    def _chunk(self, start: Affine, size: int) -> None:
        """Some steps; `start` counts in the order of computation."""
        self._run(self._load(start, size, self.b.rotation), 0)

    def _load(self, start: Affine, size: int, copies: int) -> "_Chunk":
        """Some steps with their gates, and a place for their results if these are collected."""
        b, batch = self.b, self.batch
        position = (start * -1) + (self.sizes.steps - size) if self.is_reversed else start
        steps, shape = (position, size), (self.plan.lanes, self.plan.tiles, size, batch[1])
        source = split_rows(self.operands["gates"], self.kind.gates)
        gates = b.alloc((shape[0], self.kind.gates, *shape[1:]), source.dtype, "sbuf", copies, "gates").view()
        self._fill_short(gates, 1)
        move_units(self.k, b.load, gates, source.view({**self.at, 3: steps, 4: batch}, [2, 1, 3, 4]), 1, self.plan)
        mask = self._mask(steps) if self.masked else None
        collects = "y" in self.results and not self._stores_state
        y = b.alloc(shape, self.results["y"].dtype, "sbuf", copies, "y").view() if collects else None
        return _Chunk(steps, gates, y, mask)

    def _run(self, chunk: "_Chunk", turn: int) -> None:
        """Compute the steps of a chunk, the first of which reads the state of this turn, and store their results."""
        _, size = chunk.steps

        def step(i: Affine, turn: int) -> None:
            at = (i * -1) + (size - 1) if self.is_reversed else i
            here = _Step(
                chunk.gates.at(3, at),
                None if chunk.y is None else chunk.y.at(2, at),
                None if chunk.mask is None else chunk.mask.at(1, at),
                self.turns[turn],
                self.turns[1 - turn] if self._alternates else self.turns[0],
            )
            self._step(here)

        if size > 1 and self._alternates:
            with self.b.loop(size // 2) as pair:
                step(pair * 2, 0)
                step(pair * 2 + 1, 1)
            if size % 2:
                step(Affine(size - 1), 0)
        else:
            with self.b.loop(size) as i:
                step(i, turn)
        if "y" in self.results:
            stored = self.turns[1 - turn].insert(1) if chunk.y is None else chunk.y
            window = self.results["y"].view({**self.at, 2: chunk.steps, 3: self.batch}, [1, 2, 3])
            move_units(self.k, self.b.store, stored, window, 0, self.plan)

    def _step(self, step: _Step) -> None:
        """One step of all cells."""
        if self.kind is CellKind.GRU and not self.linear:
            self._two_products(step)
        else:
            self._products((0, self.kind.gates), step.moving, partial(self._cells, step))
        if not self._moves_directly and not self._alternates:
            assert self.h is not None
            self.b.copy(step.moving, self.h)
            if step.y is not None and not self.masked:
                self.b.copy(step.y, self.h)

    @property
    def _moves_directly(self) -> bool:
        """Whether a cell may write the next moving operand: nothing reads the old one any more."""
        return self.plan.block == self.plan.tiles == self.plan.resident and not self.masked

    def _two_products(self, step: _Step) -> None:
        """A gru whose reset gate comes before the hidden gate's product: that waits for the reset gates of all."""
        assert self.h is not None
        old = self.h
        update = self.e.temp(old, rotating=True)
        reset = self.e.temp(old, self.weight.dtype, rotating=True)

        def gates(first: Affine, count: int, sums: list[tuple[int, View]]) -> None:
            values = self.cell.gru_gates(self._block(step, first, count, sums))
            here = partial(_tiles, first=first, count=count)
            self.e.tensors(here(reset), values.at(1, 1), here(old), "multiply")
            self.e.assign(here(update), values.at(1, 0))

        def hidden(first: Affine, count: int, sums: list[tuple[int, View]]) -> None:
            block = self._block(step, first, count, sums)
            self._finish(step, first, count, self.cell.gru(block, _tiles(update, first, count), None))

        self._products((0, 2), step.moving, gates)
        self._products((2, 1), reset, hidden)

    def _cells(self, step: _Step, first: Affine, count: int, sums: list[tuple[int, View]]) -> None:
        """The cells of a block whose gates have all their sums."""
        block = self._block(step, first, count, sums)
        if self.kind is CellKind.RNN:
            self._finish(step, first, count, self.cell.rnn(block))
        elif self.kind is CellKind.GRU:
            gates = self.cell.gru_gates(block)
            self._finish(step, first, count, self.cell.gru(block, gates.at(1, 0), gates.at(1, 1)))
        else:
            assert block.c is not None
            new_c = self.e.temp(block.c, rotating=True) if step.mask is not None else block.c
            finish = self.cell.lstm(block, new_c, bool(self.op.input_forget))
            if step.mask is not None:
                self.e.select(block.c, new_c, self._predicate(step.mask, count))
            self._finish(step, first, count, finish)

    def _finish(self, step: _Step, first: Affine, count: int, finish: Finish) -> None:
        """The new h where it is needed: first of all where the next step waits for it."""
        h = None if self.h is None else _tiles(self.h, first, count)
        y = None if step.y is None else _tiles(step.y, first, count)
        if self._alternates:
            for place in (_tiles(step.fresh, first, count), h, y):
                if place is not None:
                    finish(place)
            return
        assert h is not None
        if step.mask is not None:
            fresh = self.e.temp(h, rotating=True)
            finish(fresh)
            predicate = self._predicate(step.mask, count)
            self.e.select(h, fresh, predicate)
            if y is not None:
                self.e.assign(y, 0.0)
                self.e.select(y, fresh, predicate)
        elif self._moves_directly:
            finish(step.fresh)
            if self.kind is CellKind.GRU or "final_h" in self.results:
                finish(h)
            if y is not None:
                finish(y)
        else:
            finish(h)

    # -- products
    # ---------------------------------------------------------------------------------------------------------

    def _products(
        self, gates: tuple[int, int], moving: View, body: Callable[[Affine, int, list[tuple[int, View]]], None]
    ) -> None:
        """`body(first tile, tiles, sums)` for every block, with the products of some gates (first, count)."""
        plan, b = self.plan, self.b

        def block(first: Affine, count: int) -> None:
            assert self.resident is not None
            weight = self.resident.slice(1, first, count).slice(2, gates[0], gates[1])
            sums = self._sums(count, gates[1])

            def add(start: Affine, size: int) -> None:
                for index in range(size):
                    with b.loop(count) as tile:
                        for gate in map(Affine, range(gates[1])):
                            here = weight.at(1, tile).at(1, gate)
                            self._multiply_tile(sums, here, moving, tile, gate, start + index)

            # Block by block of the state, as the step before has made it: the last one is the last thing that it made.
            b.tiles(plan.tiles, plan.block, add)
            body(first, count, sums)

        def streamed(tile: Affine) -> None:
            sums = self._sums(1, gates[1])
            with b.loop(gates[1]) as gate:
                at = {**self.at, 1: (tile, 1), 2: (gate + gates[0], 1)}
                shape = (plan.lanes, plan.tiles, plan.lanes)
                weight = b.alloc(shape, self.weight.dtype, "sbuf", STREAMED_COPIES, "streamed").view()
                transfer(b, b.load, weight, self.weight.view(at, [3, 4, 5]))
                self._multiply(sums, weight, moving, Affine(0), gate)
            body(tile, 1, sums)

        if plan.resident:
            b.tiles(plan.resident, plan.block, block)
        if plan.resident < plan.tiles:
            with b.loop(plan.tiles - plan.resident) as i:
                streamed(i + plan.resident)

    def _sums(self, tiles: int, gates: int) -> list[tuple[int, View]]:
        """PSUM for the gates of a block: (first lane, [lanes, gates, tiles, batch]), as many lanes as the array has."""
        width, lanes = int(self.k.target.pe_columns), self.plan.lanes

        def part(count: int) -> View:
            return self.b.alloc((count, gates, tiles, self.batch[1]), "f32", "psum", 2, "sums").view()

        return [(lane, part(min(width, lanes - lane))) for lane in range(0, lanes, width)]

    def _multiply(
        self, sums: Sequence[tuple[int, View]], weight: View, moving: View, tile: Affine, gate: Affine
    ) -> None:
        """One tile and gate: `weight` [k lanes, k tiles, m lanes] times all of the state."""
        with self.b.loop(self.plan.tiles) as index:
            self._multiply_tile(sums, weight, moving, tile, gate, index)

    def _multiply_tile(
        self, sums: Sequence[tuple[int, View]], weight: View, moving: View, tile: Affine, gate: Affine, index: Affine
    ) -> None:
        """The same for one tile of the state."""
        for lane, part in sums:
            stationary = weight.at(1, index).slice(1, lane, part.partitions)
            self.b.matmul(part.at(1, gate).at(1, tile), stationary, moving.at(1, index), index)

    # -- operands
    # ---------------------------------------------------------------------------------------------------------

    def _block(self, step: _Step, first: Affine, count: int, sums: list[tuple[int, View]]) -> Block:
        def repeated(column: View | None) -> View | None:
            if column is None:
                return None
            column = column.slice(2, first, count)
            return column.insert(2, self.batch[1])

        bias = repeated(self.bias)
        return Block(
            sums,
            step.gates.slice(2, first, count),
            None if self.h is None else _tiles(self.h, first, count),
            None if self.c is None else _tiles(self.c, first, count),
            repeated(self.peepholes),
            None if bias is None else bias.at(1, 0),
        )

    def _resident_weight(self) -> View | None:
        """The part of the weight that stays in SBUF: [k lanes, m tiles, gates, k tiles, m lanes]."""
        plan = self.plan
        if not plan.resident:
            return None
        shape = (plan.lanes, plan.resident, self.kind.gates, plan.tiles, plan.lanes)
        weight = self.b.alloc(shape, self.weight.dtype, "sbuf", 1, "recurrence").view()
        self.b.tiles(
            plan.resident,
            plan.block,
            lambda first, count: transfer(
                self.b,
                self.b.load,
                weight.slice(1, first, count),
                self.weight.view({**self.at, 1: (first, count)}, [3, 1, 2, 4, 5]),
            ),
        )
        return weight

    def _units(self, name: str, parts: int) -> View | None:
        """An operand with `parts` numbers per hidden unit, as f32 [lanes, parts, tiles]; None where it is absent."""
        if name not in self.operands:
            return None
        view = self.b.alloc((self.plan.lanes, parts, self.plan.tiles), "f32", "sbuf", 1, name).view()
        self._fill_short(view, 1)
        source = split_rows(self.operands[name], parts)
        move_units(self.k, self.b.load, view, source.view(self.at, [2, 1]), 1, self.plan)
        return view

    def _state(self, name: str, shape: tuple[int, ...], label: str) -> View:
        """f32 state [lanes, tiles, batch] with its initial value."""
        state = self.b.alloc(shape, "f32", "sbuf", 1, label).view()
        if name not in self.operands:
            self.b.memset(state, 0.0)
            return state
        self._fill_short(state, 0)
        window = self.operands[name].view({**self.at, 2: self.batch}, [1, 2])
        move_units(self.k, self.b.load, state, window, 0, self.plan)
        return state

    def _mask(self, steps: Piece) -> View:
        """The mask of some steps on all lanes: [lanes, steps, batch]."""
        tensor = self.operands["mask"]
        mask = self.b.alloc((self.plan.lanes, steps[1], self.batch[1]), tensor.dtype, "sbuf", self.b.rotation).view()
        window = tensor.view({0: steps, 1: self.batch})
        transfer(self.b, self.b.load, mask, replace(window, dims=((0, self.plan.lanes), *window.dims)))
        return mask

    def _predicate(self, mask: View, tiles: int) -> View:
        """A step's mask [lanes, batch] as [lanes, tiles, batch]."""
        return mask.insert(0, tiles)

    def _fill_short(self, view: View, tile_dim: int) -> None:
        """Zeros in the short tile, of which only some lanes are loaded: what is computed there must stay finite."""
        if self.plan.tiles * self.plan.lanes > self.sizes.hidden:
            self.e.assign(view.slice(1 + tile_dim, self.plan.tiles - 1, 1), 0.0)


def _tiles(view: View, first: Affine, count: int) -> View:
    """Some tiles of [lanes, tiles, batch]."""
    return view.slice(1, first, count)


KERNELS: dict[type[Operation], Callable[[Kernel, RecurrentOp], None]] = {RecurrentOp: lower_recurrent}
"""Template by op class."""
