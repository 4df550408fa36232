"""Matmul, convolutions and pools in ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence

from lowering.nisa_to_neff.host_model.arithmetic import Arithmetic
from lowering.nisa_to_neff.host_model.writer import ModelWriter, held_dtype
from neuron_dialects.graph import ConvOp, ConvTransposeOp, MatMulOp, PoolKind, PoolOp, ints, shape_of, spec_of
from neuron_dialects.graph.shapes import pool_shape


def matmul(writer: ModelWriter, op: MatMulOp, names: Sequence[str]) -> str:
    """`graph.matmul`."""
    operands = [
        _last_two_swapped(writer, name, len(shape_of(value))) if flag else name
        for name, value, flag in zip(names, (op.a, op.b), (op.transpose_a, op.transpose_b), strict=True)
    ]
    return Arithmetic(writer, held_dtype(spec_of(op.a)[0]))("MatMul", *operands)


def _last_two_swapped(writer: ModelWriter, x: str, rank: int) -> str:
    return writer.node("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])


def conv(writer: ModelWriter, op: ConvOp, names: Sequence[str]) -> str:
    """`graph.conv`."""
    return writer.node(
        "Conv",
        *names,
        strides=ints(op.strides),
        pads=ints(op.pads),
        dilations=ints(op.dilations),
        group=op.groups.value.data,
    )


def conv_transpose(writer: ModelWriter, op: ConvTransposeOp, names: Sequence[str]) -> str:
    """`graph.conv_transpose`."""
    return writer.node(
        "ConvTranspose",
        *names,
        strides=ints(op.strides),
        pads=ints(op.pads),
        dilations=ints(op.dilations),
        output_padding=ints(op.output_padding),
        group=op.groups.value.data,
    )


def pool(writer: ModelWriter, op: PoolOp, names: Sequence[str]) -> str:
    """`graph.pool`."""
    kernel, strides, pads, dilations = (ints(attr) for attr in (op.kernel, op.strides, op.pads, op.dilations))
    whole_windows = pool_shape(shape_of(op.x), kernel, strides, pads, dilations, ceil_mode=False)
    attributes: dict[str, object] = {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "ceil_mode": int(shape_of(op.result) != whole_windows),
    }
    if op.kind.data is PoolKind.MAX:
        return writer.node("MaxPool", *names, **attributes)
    return writer.node("AveragePool", *names, count_include_pad=int(bool(op.count_include_pad)), **attributes)
