"""Pointwise ops that ride on the eviction of an anchor's result from PSUM, and the lowering of fused groups.

An anchor kernel (matmul, conv) computes tiles of its result in PSUM. `Epilogue` takes each tile through the group's
pointwise ops while it moves to its destination, so that bias, activation, residual and casts cost no extra pass.
Operands that vary only along the partition dimension are kept on chip for the whole kernel as columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.columns import load_column
from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.map_sums import MapSums
from lowering.graph_to_tile.pointwise import Pointwise
from lowering.graph_to_tile.row_space import reduce_rows
from lowering.graph_to_tile.spread_rows import is_spread, spread_rows
from lowering.graph_to_tile.tensors import LANES, DramTensor, Ranges, ResidentWindow, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.view import View, as_affine
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    MatMulOp,
    SelectOp,
    UnaryOp,
    YieldOp,
    spec_of,
)
from passes.graph.gathered_sums import sums_of_group
from passes.graph.pixel_rows import rows_of
from passes.graph.residence import overwrites
from passes.graph.sample_products import features_of_group

Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""(starts, sizes, steps) of a strided part of a tensor."""

ROW_BYTES = 8 * 1024
"""Bytes of a partition that an operand may take to stay on chip for all tiles of a kernel."""

SLOW_LOADS = 2.0
"""How many times longer a load of it takes than a pass of the vector engine over it, for an operand to stay on chip."""

STORED_COPIES = 6
"""Copies of an evicted tile: a store may queue behind a burst of loads while the tensor engine fills further tiles."""

POINTWISE = (UnaryOp, BinaryOp, CompareOp, SelectOp, ClipOp, CastOp)
"""Graph ops that an epilogue may hold."""


@dataclass
class Epilogue:
    """The pointwise ops behind an anchor.

    `source`: the anchor's result. `ops`: pointwise ops in order. `results`: values (source or ops' results) that leave
    the kernel. `partition`: the dimension of the result that lies on partitions, in tiles of `lane_step`. `window`: the
    part of the result that the kernel computes, (starts, sizes, steps) per dimension, or None for all of it. `beside`:
    how many times the channels of the result lie beside each other in a tile, for other rows each time.
    """

    k: Kernel
    source: SSAValue
    ops: Sequence[Operation]
    results: Sequence[SSAValue]
    partition: int
    lane_step: int = LANES
    window: Window | None = None
    beside: int = 1
    outputs: dict[SSAValue, Tensor | ResidentWindow] = field(default_factory=dict)
    columns: dict[SSAValue, View] = field(default_factory=dict)
    rows: dict[SSAValue, View] = field(default_factory=dict)
    filled: dict[SSAValue, View] = field(default_factory=dict)
    sums: Mapping[SSAValue, MapSums] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the kernel computes."""
        return self.window[1] if self.window else spec_of(self.source)[1]

    def windowed(
        self, window: Window, outputs: Mapping[SSAValue, tuple[SbufTensor, tuple[int, ...]]] | None = None
    ) -> "Epilogue":
        """The same epilogue over a strided part of the result; `prepare` was called before.

        `outputs`: a result that is written elsewhere than to its own place -> where, and where the window starts there.
        """
        starts, _, steps = window
        places: dict[SSAValue, Tensor | ResidentWindow] = {}
        for value, tensor in self.outputs.items():
            if outputs and value in outputs:
                places[value] = ResidentWindow(*outputs[value], steps)
            elif isinstance(tensor, SbufTensor):
                places[value] = ResidentWindow(tensor, starts, steps)
            else:
                assert isinstance(tensor, DramTensor)
                places[value] = tensor.slice(*window)
        return replace(self, window=window, outputs=places)

    def prepare(self) -> None:
        """Register the outputs and bring per-partition operands on chip; called once, before the kernel's loops."""
        for value in self.results:
            if self.lane_step != LANES:
                self.k.residents.pop(value, None)
            self.outputs[value] = self.k.output(value)
        inside = {self.source, *(op.results[0] for op in self.ops)}
        for op in self.ops:
            for operand in op.operands:
                known = operand in inside or operand in self.columns or operand in self.rows
                if not known and self.k.scalar(operand) is None:
                    self._prepare_column(operand)
                    self._prepare_row(operand)

    def _prepare_column(self, operand: SSAValue) -> None:
        tensor = self.k.tensor(operand)
        if not isinstance(tensor, DramTensor):
            return
        window = tensor.broadcast(spec_of(self.source)[1])
        if any(
            s and n > 1
            for d, (s, n) in enumerate(zip(window.strides, window.shape, strict=True))
            if d != self.partition
        ):
            return
        size = window.shape[self.partition]
        stride = window.strides[self.partition]
        if self.beside > 1:
            column = View(window.buffer, Affine(), 0, Affine(window.offset), ((stride, size), (0, 1)))
            self.columns[operand] = self._repeated_column(column)
            return
        self.columns[operand] = load_column(self.k, replace(tensor, offset=window.offset), size, stride, self.lane_step)

    def _repeated_column(self, source: View) -> View:
        """A column for each of the rows whose channels lie beside each other."""
        b, size = self.k.b, source.shape[0]
        buffer = b.alloc_outer((size * self.beside, 1), "f32", "sbuf", "column").view()
        for first in range(0, size * self.beside, size):
            b.load(buffer.slice(0, first, size), source)
        return buffer

    def _prepare_row(self, operand: SSAValue) -> None:
        """Keep an operand that is the same all along the partition dimension, where several tiles read it, or where the
        tensor engine has it sooner than the DMA.
        """
        tensor, b = self.k.tensor(operand), self.k.b
        if not isinstance(tensor, DramTensor) or operand in self.columns:
            return
        window = tensor.broadcast(spec_of(self.source)[1])
        lanes = self.lane_step
        if self.partition == 0 and lanes == LANES and is_spread(self.k, window):
            self.rows[operand] = spread_rows(self.k, window, window.shape[0])
            return
        if window.strides[self.partition] or window.shape[self.partition] <= lanes:
            return
        free = [d for d in range(len(window.shape)) if d != self.partition]
        sizes = [window.shape[d] if window.strides[d] else 1 for d in free]
        row_bytes, target = prod(sizes) * dtype_by_name(window.dtype).size_bytes, self.k.target
        load_ns = lanes * row_bytes / target.dma_rate_bytes_per_ns
        if row_bytes > ROW_BYTES or load_ns < SLOW_LOADS * prod(sizes) / target.clock_ghz("dve"):
            return
        buffer = b.alloc_outer((lanes, *sizes), window.dtype, "sbuf", "row").view()
        once: Ranges = {d: (0, size) for d, size in zip(free, sizes, strict=True)}
        transfer(b, b.load, buffer, window.view({**once, self.partition: (0, lanes)}, [self.partition, *free]))
        self.rows[operand] = buffer

    def begun(self, bank: View) -> tuple["Epilogue", View] | None:
        """The rest of an epilogue, and what it starts from, for a bank that all tiles of the result share.

        The operators that need nothing else are done once. None where there are none with a function among them.
        """
        first = self._leading()
        if not any(isinstance(op, UnaryOp) for op in first) or (value := first[-1].results[0]) in self.outputs:
            return None
        b = self.k.b
        tile = b.alloc(bank.shape, spec_of(value)[0].name, "sbuf", STORED_COPIES, "shared").view()
        numbers: dict[SSAValue, View | float] = {
            x: number for op in first for x in op.operands if (number := self.k.scalar(x)) is not None
        }
        numbers |= {x: Emitter.repeated(view.slice(0, 0, bank.partitions), bank) for x, view in self.filled.items()}
        location = b.location
        Pointwise(b, self.k.target).emit_group(first, {**numbers, self.source: bank}, {value: tile})
        b.location = location
        return replace(self, source=value, ops=self.ops[len(first) :]), tile

    def _leading(self) -> Sequence[Operation]:
        """The operators that need nothing but the anchor's result and numbers, up to one that others read as well."""
        value, count = self.source, 0
        for op in self.ops[:-1]:
            others = [x for x in op.operands if x is not value and self.k.scalar(x) is None]
            if others or not value.has_one_use() or value not in op.operands:
                break
            value, count = op.results[0], count + 1
        return self.ops[:count]

    def fill_numbers(self) -> None:
        """Keep numbers that are added to sums on chip as columns: functions take them from there in each iteration."""
        for op in self._leading():
            for operand in op.operands:
                number = self.k.scalar(operand)
                if isinstance(op, BinaryOp) and op.kind.data is BinaryKind.ADD and number is not None:
                    column = self.k.b.alloc_outer((self.lane_step, 1), "f32", "sbuf", "column").view()
                    self.k.b.memset(column, number)
                    self.filled[operand] = column

    def apply(self, parts: Sequence[tuple[int, View]], ranges: Ranges) -> None:
        """Evict one tile of the result.

        `parts`: (first lane within the tile, PSUM view [lanes, other dims of the result in order]); `ranges`: the piece
        of the result that the tile is; its start on the partition dimension is a multiple of 128.
        """
        b = self.k.b
        stores = {
            value: tensor.store(b, self.partition, ranges, copies=STORED_COPIES)
            for value, tensor in self.outputs.items()
        }
        loaded: dict[SSAValue, View | float] = {}
        for op in self.ops:
            for operand in op.operands:
                if operand not in loaded and operand is not self.source and not self._is_inner(operand):
                    loaded[operand] = self._operand(operand, ranges)
        sums = {value: taken.columns(ranges) for value, taken in self.sums.items()}
        for lane, psum in parts:
            self._part(lane, psum, loaded, {value: view for value, (view, _) in stores.items()}, sums)
        for _, commit in stores.values():
            commit()

    def _is_inner(self, value: SSAValue) -> bool:
        return any(value is op.results[0] for op in self.ops)

    def _operand(self, operand: SSAValue, ranges: Ranges) -> View | float:
        sizes = [ranges[d][1] if d in ranges else n for d, n in enumerate(self.shape)]
        free = [n for d, n in enumerate(sizes) if d != self.partition]
        if operand in self.filled:
            column = self.filled[operand].slice(0, 0, sizes[self.partition]).at(1, 0)
            for size in reversed(free):
                column = column.insert(0, size)
            return column
        scalar = self.k.scalar(operand)
        if scalar is not None:
            return scalar
        if operand in self.columns:
            start = as_affine(ranges.get(self.partition, (0, 0))[0])
            tile = start.divided(self.lane_step)
            column = self.columns[operand].slice(0, 0, sizes[self.partition]).at(1, tile)
            for _ in free:
                column = column.insert(0)
            return column.broadcast(free)
        if operand in self.rows and not self.window:
            row = self.rows[operand].slice(0, 0, sizes[self.partition])
            others = [d for d in range(len(sizes)) if d != self.partition]
            for position, d in enumerate(others, 1):
                if row.shape[position] > 1 and d in ranges:
                    row = row.slice(position, *ranges[d])
            return row.broadcast(free)
        tensor = self.k.tensor(operand)
        full = spec_of(self.source)[1]
        if isinstance(tensor, SbufTensor) and self.window and self.lane_step == LANES:
            starts, _, steps = self.window
            if tensor.partition == self.partition and tensor.shape == full and starts[self.partition] == 0:
                return ResidentWindow(tensor, starts, steps).store(self.k.b, self.partition, ranges)[0]
        if isinstance(tensor, SbufTensor) and (
            tensor.partition != self.partition or tensor.shape != full or self.window or self.lane_step != LANES
        ):
            tensor = self.k.dram(operand)
        if isinstance(tensor, DramTensor):
            tensor = tensor.broadcast(full)
            if self.window:
                tensor = tensor.slice(*self.window)
        return tensor.load(self.k.b, self.partition, ranges)

    def _part(
        self,
        lane: int,
        psum: View,
        loaded: dict[SSAValue, View | float],
        outputs: dict[SSAValue, View],
        sums: dict[SSAValue, View],
    ) -> None:
        """The lanes of a tile from `lane` on; `sums`: [lanes, images] for those of what is summed."""
        lanes = psum.partitions
        values: dict[SSAValue, View | float] = {
            v: x.slice(0, lane, lanes) if isinstance(x, View) else x for v, x in loaded.items()
        }
        values[self.source] = psum
        targets = {value: view.slice(0, lane, lanes) for value, view in outputs.items()}
        sums = {value: view.slice(0, lane, lanes) for value, view in sums.items()}
        if not sums or psum.shape[1] == 1:
            self._evict(values, targets, {value: view.column for value, view in sums.items()})
            return
        if not all(self.sums[value].single_images for value in sums):
            self._evict(values, dict(targets), {})
            for value, view in sums.items():
                reduce_rows(self.k.b, view, targets[value], "add")
            return
        with self.k.b.loop(psum.shape[1]) as i:
            one = {v: x.slice(1, i, 1) if isinstance(x, View) else x for v, x in values.items()}
            columns = {value: view.slice(1, i, 1) for value, view in sums.items()}
            self._evict(one, {value: view.slice(1, i, 1) for value, view in targets.items()}, columns)

    def _evict(
        self, values: Mapping[SSAValue, View | float], targets: dict[SSAValue, View], sums: dict[SSAValue, View]
    ) -> None:
        """Take some images of a tile to where they belong."""
        b, source = self.k.b, values[self.source]
        assert isinstance(source, View)
        if self.source in targets:
            b.activation(targets.pop(self.source), source, "copy", row_sum=sums.pop(self.source, None))
        if targets:
            location = b.location
            Pointwise(b, self.k.target).emit_group(self.ops, values, targets, sums)
            b.location = location


def lower_fused(k: Kernel, op: FusedOp) -> None:
    """Lower a fused group: an anchor with an epilogue, sums of gathered rows, features of samples, or pointwise ops
    that are swept together.
    """
    from lowering.graph_to_tile import conv, elementwise, gathered_sums, matmul, pixel_rows, sample_products

    block = op.body.block
    for argument, operand in zip(block.args, op.operands, strict=True):
        if operand in k.constants:
            k.constants[argument] = k.constants[operand]
        if operand in k.pairs:
            k.pairs[argument] = k.pairs[operand]
        elif operand in k.tensors:
            k.tensors[argument] = k.tensors[operand]
        elif k.scalar(operand) is None or _is_multiplied(argument):
            k.tensors[argument] = k.tensor(operand)
    terminator = block.last_op
    assert isinstance(terminator, YieldOp)
    for value, result in zip(terminator.values, op.results, strict=True):
        if result in k.destinations:
            k.destinations[value] = k.destinations[result]
        if result in k.residents:
            k.residents[value] = k.residents[result]
        if result in k.pair_places:
            k.pair_places[value] = k.pair_places[result]
        if result in k.joined:
            k.joined[value] = k.joined[result]
        if result in k.summed:
            k.summed.add(value)
        if result in k.rings:
            k.rings[value] = k.rings[result]
        if result in overwrites(op):
            k.inherits[value] = overwrites(op)[result]
    ops = [inner for inner in block.ops if not isinstance(inner, YieldOp)]
    results = list(dict.fromkeys(terminator.values))
    anchor, sums, features, run = ops[0], sums_of_group(op), features_of_group(op), rows_of(op)
    if sums is not None:
        gathered_sums.lower(k, sums)
    elif features is not None and features.sums is not None:
        gathered_sums.lower(k, features.sums, features)
    elif features is not None:
        sample_products.lower_sample_features(k, features)
    elif run is not None:
        pixel_rows.lower(k, run)
    elif type(anchor) in matmul.KERNELS:
        matmul.lower(k, anchor, ops[1:], results)
    elif type(anchor) in conv.KERNELS:
        conv.lower(k, anchor, ops[1:], results)
    else:
        elementwise.lower_group(k, ops, results)
    for value, result in zip(terminator.values, op.results, strict=True):
        if value in k.map_sums:
            k.map_sums[result] = k.map_sums[value]
        if value in k.pairs:
            k.pairs[result] = k.pairs[value]
        else:
            k.tensors[result] = k.tensors[value]


def _is_multiplied(value: SSAValue) -> bool:
    """Whether an anchor multiplies this value: then even a constant of one number is wanted as a tensor."""
    return any(isinstance(use.operation, MatMulOp | ConvOp | ConvTransposeOp) and use.index < 2 for use in value.uses)
