"""Kernels of pointwise graph operators: one operator, or a group of them, as one sweep over the broadcast result shape.

Every distinct input is loaded once per piece, as far out of the loops as it is constant; scalars are numbers and what
varies only along the partitions is a column. Intermediates stay on chip. Without resident tensors the sweep chooses its
own shape: dimensions that all tensors walk alike merge, and the cheapest one is spread over the partitions (see
`iteration.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.columns import resident_column
from lowering.graph_to_tile.emitter import Operand
from lowering.graph_to_tile.footprint import group_bytes_per_element
from lowering.graph_to_tile.iteration import (
    Access,
    Lanes,
    Piece,
    Shape,
    Space,
    Strides,
    choose_lanes,
    chunk_sizes,
    collapse,
    largest_divisor,
    overlapping_limit,
    split,
    traverse,
)
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pointwise import POINTWISE_OPS, Pointwise
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from lowering.graph_to_tile.turning import lower_turned, wants_turning
from lowering.graph_to_tile.view import View
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import CastOp, spec_of

SBUF_SHARE = 0.5
"""Part of SBUF that the tiles of one sweep may take; resident tensors have the rest."""


def lower_group(k: Kernel, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a DAG of pointwise operators, in program order, whose `results` are wanted outside of it.

    Results of one shape are computed in one sweep; where they have several, each operator gets a sweep of its own.
    """
    shapes = {spec_of(value)[1] for value in results}
    if len(shapes) > 1:
        for op in ops:
            lower_group(k, [op], op.results)
        return
    shape = shapes.pop() or (1,)
    if prod(shape) == 0:
        for value in results:
            k.output(value)
        return
    group = _Group(k, ops, results, shape)
    partition = group.resident_partition()
    outputs = {value: k.output(value) for value in results}
    if partition is None:
        group.sweep_dram({value: tensor for value, tensor in outputs.items() if isinstance(tensor, DramTensor)})
    else:
        group.sweep_resident(partition, outputs)


@dataclass
class _Group:
    """One sweep: operators, wanted results, and their common shape."""

    k: Kernel
    ops: Sequence[Operation]
    results: Sequence[SSAValue]
    shape: Shape

    def __post_init__(self) -> None:
        produced = {value for op in self.ops for value in op.results}
        operands = dict.fromkeys(value for op in self.ops for value in op.operands if value not in produced)
        self.numbers: dict[SSAValue, float] = {}
        self.inputs: list[SSAValue] = []
        for value in operands:
            number = self.k.scalar(value)
            if number is None:
                self.inputs.append(value)
            else:
                self.numbers[value] = number

    # -- where
    # ------------------------------------------------------------------------------------------------------------

    def resident_partition(self) -> int | None:
        """The dimension on the partitions if a tensor of the group is resident; those that do not agree leave SBUF."""
        k = self.k
        wanted = [k.residents[v][0] for v in self.results if v in k.residents and v not in k.destinations]
        held = {v: t for v in self.inputs if isinstance(t := k.tensor(v), SbufTensor)}
        for tensor in held.values():
            lane = tensor.partition + len(self.shape) - len(tensor.shape)
            if tensor.shape[tensor.partition] == self.shape[lane]:
                wanted.append(lane)
        partition = wanted[0] if wanted else None
        for value in self.results:
            if value in k.residents and k.residents[value][0] != partition:
                del k.residents[value]
        for value, tensor in held.items():
            lane = tensor.partition + len(self.shape) - len(tensor.shape)
            if lane != partition or tensor.shape[tensor.partition] != self.shape[lane]:
                k.dram(value)
        return partition

    # -- sweeps
    # -----------------------------------------------------------------------------------------------------------

    def sweep_resident(self, partition: int, outputs: Mapping[SSAValue, DramTensor | SbufTensor]) -> None:
        """Sweep in the shape of the result, with the resident tensors' dimension on the partitions."""
        space = Space(self.shape, partition)
        self._sweep(
            space,
            {value: self._access(self._whole_column(self.k.tensor(value), partition)) for value in self.inputs},
            {value: self._access(tensor) for value, tensor in outputs.items()},
        )

    def _whole_column(self, tensor: DramTensor | SbufTensor, partition: int) -> DramTensor | SbufTensor:
        """A column of floats for several tiles of lanes on chip, all of it; any other tensor as it is."""
        if not isinstance(tensor, DramTensor) or self.shape[partition] <= LANES:
            return tensor
        lane, is_float = partition - len(self.shape) + len(tensor.shape), dtype_by_name(tensor.dtype).is_float
        if lane < 0 or not is_float or (prod(tensor.shape), tensor.shape[lane]) != (self.shape[partition],) * 2:
            return tensor
        return resident_column(self.k, tensor, lane)

    def _access(self, tensor: DramTensor | SbufTensor) -> Access:
        if isinstance(tensor, SbufTensor):
            return Access.aligned(tensor, self.shape)
        return Access.dram(tensor, self.shape, tensor.broadcast(self.shape).strides)

    def sweep_dram(self, outputs: Mapping[SSAValue, DramTensor]) -> None:
        """Sweep DRAM tensors in the cheapest shape."""
        windows = {value: self.k.dram(value).broadcast(self.shape) for value in self.inputs}
        windows |= {value: tensor.broadcast(self.shape) for value, tensor in outputs.items()}
        tensors = list(windows.values())
        shape, strides = collapse(self.shape, [tensor.strides for tensor in tensors])
        for first, part in _whole_lanes(shape):
            places = [
                DramTensor(t.buffer, part, walk, t.offset + first * walk[0])
                for t, walk in zip(tensors, strides, strict=True)
            ]
            lanes = choose_lanes(part, strides, [_size_bytes(t) for t in tensors], range(len(part)), self.k.target)
            accesses, space = _spread(places, part, strides, lanes)
            known = dict(zip(windows, accesses, strict=True))
            self._sweep(space, {v: known[v] for v in self.inputs}, {v: known[v] for v in outputs})

    def _sweep(self, space: Space, inputs: Mapping[SSAValue, Access], outputs: Mapping[SSAValue, Access]) -> None:
        """The loops: load, compute, store."""
        b = self.k.b
        pointwise = Pointwise(b, self.k.target)
        loads = {value: (access, _column_dtype(access, space)) for value, access in inputs.items()}
        chunks = chunk_sizes(space.shape, space.partition, self._row_limit(space, inputs))

        def body(piece: Piece, views: dict[SSAValue, View]) -> None:
            stores = {value: access.store(b, space, piece, b.rotation) for value, access in outputs.items()}
            operands: dict[SSAValue, Operand] = {**self.numbers, **views}
            pointwise.emit_group(self.ops, operands, {value: view for value, (view, _) in stores.items()})
            for _, commit in stores.values():
                commit()

        # Of what concatenations hold, the last channels come last.
        wholes = [whole.buffer for whole in self.k.wholes.values()]
        apart = any(access.tensor.buffer is whole for access in inputs.values() for whole in wholes)
        traverse(b, space, chunks, loads, body, last_lanes_apart=apart)

    def _row_limit(self, space: Space, inputs: Mapping[SSAValue, Access]) -> int:
        """Elements of a row for which all tiles fit into SBUF together."""
        columns = {value for value, access in inputs.items() if access.is_column(space)}
        bytes_per_element = group_bytes_per_element(self.k.target, self.ops, self.results, self.numbers, columns)
        room = int(int(self.k.target.sbuf_bytes_per_partition) * SBUF_SHARE / bytes_per_element)
        return overlapping_limit(space.row_elements, max(1, min(room, self.k.row_budget_elements)))


def _size_bytes(tensor: DramTensor) -> int:
    return dtype_by_name(tensor.dtype).size_bytes


def _whole_lanes(shape: Shape) -> list[tuple[int, Shape]]:
    """(first element, shape) of the parts that a sweep is made of.

    One run of elements that no good number of lanes divides is cut into a part that 128 divides and a short rest.
    """
    total = prod(shape)
    if len(shape) > 1 or total <= LANES or largest_divisor(total) >= LANES // 2:
        return [(0, shape)]
    rest = total % LANES
    return [(0, (total - rest,)), (total - rest, (rest,))]


def _spread(
    tensors: Sequence[DramTensor], shape: Shape, strides: Sequence[Strides], lanes: Lanes
) -> tuple[list[Access], Space]:
    """The tensors seen from the space in which the chosen positions are one dimension, on the partitions."""
    if lanes.parts != shape[lanes.dim]:
        shape, strides = split(shape, strides, lanes.dim, lanes.parts)
    accesses = [Access.dram(tensor, shape, walk) for tensor, walk in zip(tensors, strides, strict=True)]
    return accesses, Space(shape, lanes.dim)


def _column_dtype(access: Access, space: Space) -> str | None:
    """Columns of floats are loaded as f32, as the engines take them; everything else as it is."""
    is_float = dtype_by_name(access.tensor.dtype).is_float
    return "f32" if is_float and access.is_column(space) and isinstance(access.tensor, DramTensor) else None


def lower_pointwise(k: Kernel, op: Operation) -> None:
    """Lower a single pointwise operator."""
    if isinstance(op, CastOp) and wants_turning(k, op):
        lower_turned(k, op)
        return
    lower_group(k, [op], op.results)


KERNELS = {op_class: lower_pointwise for op_class in POINTWISE_OPS}
"""Kernel templates of the pointwise operators."""
