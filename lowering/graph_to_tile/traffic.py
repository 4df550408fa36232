"""What a core function must move at least, read off its graph form: the DRAM bytes of the roofline.

Inputs, weights and outputs count once each in the types that the core computes with; a weight that is only gathered
from counts for the rows that are fetched. How kernels pack weights, or how often they move something, does not count.
"""

from math import prod

from xdsl.dialects import func
from xdsl.ir import SSAValue

from neuron_dialects.graph import GatherOp, WeightOp, spec_of


def tensor_bytes(value: SSAValue) -> int:
    """Bytes of a dense tensor."""
    dtype, shape = spec_of(value)
    return prod(shape) * dtype.size_bytes


def _bytes_read(weight: WeightOp) -> int:
    """Bytes of a weight that any program must read for the uses of one op."""
    gathered = 0
    for use in weight.result.uses:
        user = use.operation
        if not isinstance(user, GatherOp) or user.data is not weight.result:
            return tensor_bytes(weight.result)
        gathered += tensor_bytes(user.result)
    return gathered


def compulsory_bytes(function: func.FuncOp) -> int:
    """Compulsory DRAM bytes of a core function of graph ops."""
    block = function.body.block
    returned = block.last_op
    assert isinstance(returned, func.ReturnOp)
    boundary = sum(tensor_bytes(value) for value in (*block.args, *returned.arguments))
    weights: dict[str, list[WeightOp]] = {}
    for op in block.ops:
        if isinstance(op, WeightOp):
            weights.setdefault(op.weight_name, []).append(op)
    return boundary + sum(
        min(tensor_bytes(ops[0].result), sum(_bytes_read(op) for op in ops)) for ops in weights.values()
    )
