"""`graph-narrow-integers`: the integers of core functions in 32 bits.

Given a partitioned module, leaves its core functions without i64: they take, compute and return i32. Their launches
still carry i64 and convert, so that nothing changes for the host. A constant beyond 32 bits that is only compared with
becomes the nearest number that fits, and says so; an operator for which that would not do is already on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, TensorType, i64
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from neuron_dialects.dtypes import I32, I64, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import CastOp, ConstantOp, WeightOp, spec_of
from neuron_dialects.graph.support import I32_LIMITS, fits_i32, saturates_constants
from neuron_dialects.neuron import core_functions, location_name

SATURATED_ATTRIBUTE = "neuron.saturated"
"""Attribute of a constant: the number that it was before it was made to fit 32 bits."""


@dataclass(frozen=True)
class GraphNarrowIntegersPass(ModulePass):
    """Compute the i64 tensors of core functions as i32.

        func.func @neuron_0(%i: tensor<4xi64>) -> tensor<4xi64> attributes {neuron.executor = #neuron.executor<core>} {
          %c = graph.constant 7 : tensor<i64>
          %0 = graph.binary add %i, %c : (tensor<4xi64>, tensor<i64>) -> tensor<4xi64>
          func.return %0 : tensor<4xi64>
        }

    becomes

        func.func @neuron_0(%i: tensor<4xi32>) -> tensor<4xi32> attributes {neuron.executor = #neuron.executor<core>} {
          %c = graph.constant 7 : tensor<i32>
          %0 = graph.binary add %i, %c : (tensor<4xi32>, tensor<i32>) -> tensor<4xi32>
          func.return %0 : tensor<4xi32>
        }

    while @main goes on launching it with tensor<4xi64>. Weights of i64 are cast.
    """

    name = "graph-narrow-integers"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Narrow every core function. NeuronError NX-PASS-002 for a constant that would change a result."""
        for function in core_functions(op):
            narrow_function(function)


def narrow_function(function: FuncOp) -> None:
    """Turn every i64 tensor of a function of graph operators into i32."""
    for op in list(function.body.walk()):
        for region in op.regions:
            for block in region.blocks:
                _narrow_arguments(block)
        match op:
            case ConstantOp():
                _narrow_constant(op)
            case WeightOp():
                _narrow_weight(op)
            case _:
                _narrow_results(op)
    _narrow_arguments(function.body.block)
    function.update_function_type()


def _narrowed(type_: Attribute) -> Attribute | None:
    """The type that takes the place of an i64 tensor type; None for other types."""
    if not isinstance(type_, TensorType) or dtype_of_or_none(type_) is not I64:
        return None
    return TensorType(I32.type, type_.get_shape())


def _retype(value: SSAValue) -> SSAValue:
    type_ = _narrowed(value.type)
    return value if type_ is None else Rewriter.replace_value_with_new_type(value, type_)


def _narrow_arguments(block: Block) -> None:
    for argument in block.args:
        _retype(argument)


def _narrow_results(op: Operation) -> None:
    """The results of an operator; a cast between what is now one type vanishes."""
    for result in op.results:
        _retype(result)
    if isinstance(op, CastOp) and op.x.type == op.result.type:
        op.result.replace_all_uses_with(op.x)
        op.detach()
        op.erase()


def _narrow_constant(op: ConstantOp) -> None:
    if spec_of(op.result)[0] is not I64:
        return
    values = op.array()
    # A splat is one number however many elements it fills.
    numbers = np.clip(values[(0,) * values.ndim] if op.is_splat and values.size else values, *I32_LIMITS)
    made = ConstantOp(numbers, I32, values.shape)
    made.attributes = dict(op.attributes)
    if not fits_i32(op):
        _check_saturation(op)
        wrong = next(value for value in values.flat if not I32_LIMITS[0] <= value <= I32_LIMITS[1])
        made.attributes[SATURATED_ATTRIBUTE] = IntegerAttr(int(wrong), i64)
    made.location = op.location
    made.result.name_hint = op.result.name_hint
    block = op.parent_block()
    assert block is not None
    block.insert_op_before(made, op)
    op.result.replace_all_uses_with(made.result)
    block.erase_op(op)


def _check_saturation(op: ConstantOp) -> None:
    """NeuronError unless every user of a constant beyond 32 bits only compares with it."""
    for use in op.result.uses:
        if not saturates_constants(use.operation):
            raise NeuronError(
                "NX-PASS-002",
                f"graph-narrow-integers: {use.operation.name} computes with a constant that does not fit 32 bits",
                node=location_name(use.operation.location),
                help="graph-partition leaves such operators to the host",
            )


def _narrow_weight(op: WeightOp) -> None:
    """The weight, cast; `graph-fold-weights` makes a recipe of that."""
    if spec_of(op.result)[0] is not I64:
        return
    block = op.parent_block()
    assert block is not None
    cast = CastOp(op.result, I32)
    cast.location = op.location
    cast.result.name_hint = op.result.name_hint
    block.insert_op_after(cast, op)
    op.result.replace_uses_with_if(cast.result, lambda use: use.operation is not cast)
