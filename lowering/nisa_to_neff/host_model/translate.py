"""Walks a host function and writes each operator into the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from xdsl.dialects.builtin import TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.traits import IsTerminator

from lowering.nisa_to_neff.host_model import attention, elementwise, linear, movement, recurrent, reduction
from lowering.nisa_to_neff.host_model.onnx_node import emit_onnx_node, model_opset
from lowering.nisa_to_neff.host_model.unary import unary
from lowering.nisa_to_neff.host_model.writer import Array, ModelWriter, is_narrow
from neuron_dialects.dtypes import F16, F32, DType, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    AttentionOp,
    BatchNormOp,
    BinaryOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    GatherOp,
    LayerNormOp,
    MatMulOp,
    OnnxNodeOp,
    PadOp,
    PoolOp,
    RecurrentOp,
    ReduceOp,
    RelayoutOp,
    ReorderRowsOp,
    ReshapeOp,
    ScatterOp,
    SelectOp,
    SliceOp,
    SoftmaxOp,
    TransposeOp,
    UnaryOp,
    WeightOp,
)
from neuron_dialects.neuron import location_name
from runtime.graph_interpreter.boundary import misfit
from runtime.graph_interpreter.host import onnx_type

COMPUTING: dict[type[Operation], Callable[..., str | Sequence[str]]] = {
    UnaryOp: unary,
    ClipOp: elementwise.clip,
    BinaryOp: elementwise.binary,
    CompareOp: elementwise.compare,
    ReduceOp: reduction.reduce,
    SoftmaxOp: reduction.softmax,
    LayerNormOp: reduction.layer_norm,
    BatchNormOp: reduction.batch_norm,
    MatMulOp: linear.matmul,
    AttentionOp: attention.attention,
    ConvOp: linear.conv,
    ConvTransposeOp: linear.conv_transpose,
    PoolOp: linear.pool,
    RecurrentOp: recurrent.recurrent,
}
"""Operators whose results are rounded to their element type once they are computed."""

_MOVING: Mapping[type[Operation], Callable[..., str]] = {
    CastOp: elementwise.cast,
    SelectOp: elementwise.select,
    TransposeOp: movement.transpose,
    ReshapeOp: movement.reshape,
    RelayoutOp: movement.reshape,
    ReorderRowsOp: movement.reorder_rows,
    BroadcastOp: movement.broadcast,
    ConcatOp: movement.concat,
    SliceOp: movement.slice_,
    PadOp: movement.pad,
    GatherOp: movement.gather,
    ScatterOp: movement.scatter,
}
"""Operators whose results are elements of their type already."""

WRITTEN_OPS = frozenset({*COMPUTING, *_MOVING, ConstantOp, WeightOp, FusedOp, OnnxNodeOp})
"""All operators that a host function may consist of."""


def host_model(function: FuncOp, weights: Callable[[str], Array]) -> ModelProto:
    """The model of a host function; see `host_model_bytes`."""
    return _Translation(function, weights).model()


class _Translation:
    """One function on its way into a model."""

    def __init__(self, function: FuncOp, weights: Callable[[str], Array]) -> None:
        blocks = list(function.body.blocks)
        if len(blocks) != 1:
            name = function.sym_name.data
            raise NeuronError("NX-IR-001", f"host function @{name} has {len(blocks)} blocks; it must have one")
        self._block = blocks[0]
        self._weights = weights
        self._values: dict[SSAValue, str] = {}
        nodes = [op for op in self._block.walk() if isinstance(op, OnnxNodeOp)]
        self._writer = ModelWriter(function.sym_name.data, model_opset(nodes))

    def model(self) -> ModelProto:
        """The model of the function."""
        writer = self._writer
        inputs: list[ValueInfoProto] = []
        for position, argument in enumerate(self._block.args):
            name = f"in{position}"
            inputs.append(_boundary(name, argument.type))
            self._values[argument] = name
            if _narrow(argument.type) is F16:
                self._values[argument] = writer.cast(name, F32)
        returned = self._write_block(self._block)
        outputs: list[ValueInfoProto] = []
        writer.location = ""
        for position, value in enumerate(returned):
            name = f"out{position}"
            outputs.append(_boundary(name, value.type))
            if _narrow(value.type) is F16:
                writer.named("Cast", self._name(value), name, to=TensorProto.FLOAT16)
            else:
                writer.named("Identity", self._name(value), name)
        return writer.model(inputs, outputs)

    def _write_block(self, block: Block) -> Sequence[SSAValue]:
        """Write the operators of a block; returns what its terminator passes on."""
        for op in block.ops:
            if op.has_trait(IsTerminator):
                return op.operands
            # Written when used: a function may name all its weights at its beginning.
            if not isinstance(op, WeightOp | ConstantOp):
                self._write_op(op)
        raise NeuronError("NX-IR-001", "a block does not end with func.return or graph.yield")

    def _write_op(self, op: Operation) -> None:
        location = location_name(op.location)
        for value in (*op.operands, *op.results):
            dtype = dtype_of_or_none(value.type)
            if dtype is not None and dtype.onnx is None:
                raise NeuronError(
                    "NX-OP-002", f"the host does not compute in {dtype}: ONNX has no such type", node=location
                )
        operands = [self._name(value) for value in op.operands]
        self._writer.location = location or ""
        match op:
            case FusedOp():
                inner = op.body.block
                self._values.update(zip(inner.args, operands, strict=True))
                results = [self._name(value) for value in self._write_block(inner)]
            case OnnxNodeOp():
                results = self._write_onnx_node(op, operands)
            case _ if type(op) in _MOVING:
                results = [_MOVING[type(op)](self._writer, op, operands)]
            case _ if type(op) in COMPUTING:
                computed = COMPUTING[type(op)](self._writer, op, operands)
                narrow = _narrow(op.results[0].type)
                results = [computed] if isinstance(computed, str) else list(computed)
                if narrow is not None:
                    results = [self._writer.rounded(name, narrow) for name in results]
            case _:
                raise NeuronError("NX-IR-001", f"'{op.name}' cannot stand in a host function", node=location)
        self._values.update(zip(op.results, results, strict=True))

    def _write_onnx_node(self, op: OnnxNodeOp, operands: Sequence[str]) -> list[str]:
        """An ONNX node works in the types that it states, not in those that values are held in."""
        typed = [
            name if (narrow := _narrow(value.type)) is None else self._writer.cast(name, narrow)
            for name, value in zip(operands, op.inputs, strict=True)
        ]
        results = emit_onnx_node(self._writer, op, typed)
        return [
            name if _narrow(value.type) is None else self._writer.cast(name, F32)
            for name, value in zip(results, op.outputs, strict=True)
        ]

    def _name(self, value: SSAValue) -> str:
        """The ONNX value that holds `value`; constants and weights are written now if they have not been."""
        if value not in self._values:
            owner = value.owner
            assert isinstance(owner, ConstantOp | WeightOp), f"{value} is defined before its use"
            self._writer.location = location_name(owner.location) or ""
            self._values[value] = self._constant(owner) if isinstance(owner, ConstantOp) else self._weight(owner)
        return self._values[value]

    def _constant(self, op: ConstantOp) -> str:
        array = op.array()
        if _narrow(op.result.type) is not None:
            # A conversion would spell out a repeated value.
            repeated = op.is_splat and array.size > 0
            array = np.broadcast_to((array.flat[0] if repeated else array).astype(np.float32), array.shape)
        return self._writer.constant(array)

    def _weight(self, op: WeightOp) -> str:
        array = self._weights(op.weight_name)
        if (problem := misfit(array, op.result.type)) is not None:
            raise NeuronError("NX-WEIGHT-004", f"weight '{op.weight_name}' is {problem}")
        name = self._writer.weight(op.weight_name, array)
        return name if _narrow(op.result.type) is None else self._writer.cast(name, F32)


def _narrow(type_: Attribute) -> DType | None:
    """The element type of tensors that are held as f32 although they are narrower; else None."""
    dtype = dtype_of_or_none(type_) if isinstance(type_, TensorType) else None
    return dtype if dtype is not None and is_narrow(dtype) else None


def _boundary(name: str, type_: Attribute) -> ValueInfoProto:
    """Declaration of a model input or output."""
    if _narrow(type_) not in (None, F16):
        assert isinstance(type_, TensorType)
        type_ = TensorType(F32.type, type_.shape)
    return helper.make_value_info(name, onnx_type(type_))
