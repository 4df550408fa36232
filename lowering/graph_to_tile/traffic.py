"""What a core function must move at least, read off its graph form: the DRAM bytes of the roofline.

Inputs, weights and outputs count once each in the types that the core computes with; a weight that is only gathered
from counts for the rows that are fetched. How kernels pack weights, or how often they move something, does not count.
"""

from xdsl.dialects import func
from xdsl.ir import SSAValue

from neuron_dialects.graph import FusedOp, GatherOp, WeightOp, spec_of
from neuron_dialects.graph.work import model_elements


def tensor_bytes(value: SSAValue) -> int:
    """Bytes of a dense tensor; of a weight that was filled up with zeros, those of the model's."""
    return model_elements(value) * spec_of(value)[0].size_bytes


def _bytes_read(weight: SSAValue) -> int:
    """Bytes of a weight that any program must read for the uses of one op, or of a fused group's argument."""
    gathered = 0
    for use in weight.uses:
        user = use.operation
        if isinstance(user, FusedOp):
            gathered += _bytes_read(user.body.block.args[use.index])
        elif isinstance(user, GatherOp) and user.data is weight:
            gathered += tensor_bytes(user.result)
        else:
            return tensor_bytes(weight)
    return min(gathered, tensor_bytes(weight))


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
        min(tensor_bytes(ops[0].result), sum(_bytes_read(op.result) for op in ops)) for ops in weights.values()
    )
