"""The graph dialect: tensors, framework operators, weights by reference.

Operators have ONNX semantics on ranked, statically shaped builtin tensors in channel-first order. Every operator states
its result type in terms of its operands, so constructors infer it and verifiers check it. Whatever has no operator here
is a `graph.onnx_node` and runs on the host. `Graph` is the dialect to load into a context.
"""

from xdsl.ir import Dialect

from neuron_dialects.graph.attrs import (
    BinaryKind,
    BinaryKindAttr,
    CompareKind,
    CompareKindAttr,
    OpaqueType,
    PadMode,
    PadModeAttr,
    PoolKind,
    PoolKindAttr,
    ReduceKind,
    ReduceKindAttr,
    UnaryKind,
    UnaryKindAttr,
    f32_attr,
    flag_attr,
    int_attr,
    ints,
    ints_attr,
)
from neuron_dialects.graph.base import ComputeOp, TensorSpec, Value, shape_of, spec_of, tensor_type
from neuron_dialects.graph.elementwise import UNARY_PARAMETERS, BinaryOp, CastOp, ClipOp, CompareOp, SelectOp, UnaryOp
from neuron_dialects.graph.layout import LayoutAttr, layout_of
from neuron_dialects.graph.linear import ConvOp, ConvTransposeOp, MatMulOp, PoolOp
from neuron_dialects.graph.movement import BroadcastOp, ConcatOp, GatherOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from neuron_dialects.graph.reduction import BatchNormOp, LayerNormOp, ReduceOp, SoftmaxOp
from neuron_dialects.graph.shapes import Shape, ShapeError
from neuron_dialects.graph.source import MAX_CONSTANT_BYTES, ConstantOp, DerivedWeightOp, WeightOp
from neuron_dialects.graph.structure import FusedOp, OnnxNodeOp, YieldOp

Graph = Dialect(
    "graph",
    [
        UnaryOp,
        ClipOp,
        BinaryOp,
        CompareOp,
        SelectOp,
        CastOp,
        ReduceOp,
        SoftmaxOp,
        LayerNormOp,
        BatchNormOp,
        MatMulOp,
        ConvOp,
        ConvTransposeOp,
        PoolOp,
        TransposeOp,
        ReshapeOp,
        BroadcastOp,
        ConcatOp,
        SliceOp,
        PadOp,
        GatherOp,
        ConstantOp,
        WeightOp,
        DerivedWeightOp,
        OnnxNodeOp,
        FusedOp,
        YieldOp,
    ],
    [
        UnaryKindAttr,
        BinaryKindAttr,
        CompareKindAttr,
        ReduceKindAttr,
        PoolKindAttr,
        PadModeAttr,
        OpaqueType,
        LayoutAttr,
    ],
)

__all__ = [
    "MAX_CONSTANT_BYTES",
    "UNARY_PARAMETERS",
    "BatchNormOp",
    "BinaryKind",
    "BinaryKindAttr",
    "BinaryOp",
    "BroadcastOp",
    "CastOp",
    "ClipOp",
    "CompareKind",
    "CompareKindAttr",
    "CompareOp",
    "ComputeOp",
    "ConcatOp",
    "ConstantOp",
    "ConvOp",
    "ConvTransposeOp",
    "DerivedWeightOp",
    "FusedOp",
    "GatherOp",
    "Graph",
    "LayerNormOp",
    "LayoutAttr",
    "MatMulOp",
    "OnnxNodeOp",
    "OpaqueType",
    "PadMode",
    "PadModeAttr",
    "PadOp",
    "PoolKind",
    "PoolKindAttr",
    "PoolOp",
    "ReduceKind",
    "ReduceKindAttr",
    "ReduceOp",
    "ReshapeOp",
    "SelectOp",
    "Shape",
    "ShapeError",
    "SliceOp",
    "SoftmaxOp",
    "TensorSpec",
    "TransposeOp",
    "UnaryKind",
    "UnaryKindAttr",
    "UnaryOp",
    "Value",
    "WeightOp",
    "YieldOp",
    "f32_attr",
    "flag_attr",
    "int_attr",
    "ints",
    "ints_attr",
    "layout_of",
    "shape_of",
    "spec_of",
    "tensor_type",
]
