"""Reading `scf.for` loops with constant bounds, the only loops of the tile and nisa levels."""

from xdsl.dialects import arith, scf
from xdsl.dialects.builtin import IntegerAttr
from xdsl.utils.exceptions import VerifyException


def trip_count(loop: scf.ForOp) -> int:
    """Iterations of a loop; VerifyException when its bounds are not constants."""
    bounds: list[int] = []
    for value in (loop.lb, loop.ub, loop.step):
        owner = value.owner
        if not isinstance(owner, arith.ConstantOp) or not isinstance(owner.value, IntegerAttr):
            raise VerifyException("scf.for: bounds of tile and nisa loops are constants")
        bounds.append(owner.value.value.data)
    return max(0, -(-(bounds[1] - bounds[0]) // bounds[2]))
