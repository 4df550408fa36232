"""Operators that move rows: positions along all dimensions but the last, whose elements stay together in order."""

from xdsl.ir import Operation

from neuron_dialects.graph import ConcatOp, ReshapeOp, SliceOp, TransposeOp, ints, shape_of

MOVEMENT = (ReshapeOp, TransposeOp, SliceOp, ConcatOp)
"""What may move rows."""


def moves_rows(op: Operation) -> bool:
    """Whether an operator moves rows and does nothing else."""
    match op:
        case ReshapeOp():
            return shape_of(op.x)[-1:] == shape_of(op.result)[-1:]
        case TransposeOp():
            return ints(op.permutation)[-1:] == (len(shape_of(op.x)) - 1,)
        case SliceOp():
            return (ints(op.starts)[-1], ints(op.sizes)[-1], ints(op.steps)[-1]) == (0, shape_of(op.x)[-1], 1)
        case ConcatOp():
            return op.axis.value.data < len(shape_of(op.result)) - 1
        case _:
            return False
