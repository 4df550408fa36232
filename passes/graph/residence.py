"""Room in SBUF for tensors that stay there, and results that take the place of an operand.

`Budget` is plain arithmetic over intervals of kernels. A product that a residual is added to can leave its result where
the residual lay, if nobody reads that afterwards: `inheritance` finds the operand, `set_overwrites` writes the decision
on the kernel, `overwrites` reads it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, prod

from xdsl.dialects.builtin import DenseArrayBase, i64
from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import BinaryKind, BinaryOp, ConvOp, FusedOp, MatMulOp, spec_of
from passes.graph.conv_groups import LANES

Halo = tuple[tuple[int, int], ...]

OVERWRITES = "graph.overwrites"
"""Attribute of a kernel: [number of a result, number of the operand whose memory it takes]."""


@dataclass(frozen=True)
class Interval:
    """A value that could stay on chip: bytes per partition, live from kernel `start` to kernel `end`."""

    start: int
    end: int
    bytes: int


@dataclass
class Budget:
    """Bytes per partition that resident tensors may take, and take, at each kernel."""

    capacity: list[int]
    used: list[int]

    def admit(self, interval: Interval) -> bool:
        """Reserve room for the interval if there is any."""
        span = range(interval.start, interval.end + 1)
        if any(self.used[i] + interval.bytes > self.capacity[i] for i in span):
            return False
        for i in span:
            self.used[i] += interval.bytes
        return True

    def admit_all(self, intervals: Sequence[Interval]) -> bool:
        """Reserve room for all of the intervals, or for none."""
        for count, interval in enumerate(intervals):
            if not self.admit(interval):
                for taken in intervals[:count]:
                    for i in range(taken.start, taken.end + 1):
                        self.used[i] -= taken.bytes
                return False
        return True


def live_profile(kernels: int, intervals: Iterable[Interval]) -> tuple[list[int], list[int]]:
    """Bytes per partition of values that are live at each of so many kernels, and of those the bytes that later ones
    read. A value that ends before it begins takes none; one that nobody reads within them ends at `kernels`.
    """
    changes, ending = [0] * (kernels + 1), [0] * (kernels + 1)
    for interval in intervals:
        if interval.start <= interval.end:
            changes[interval.start] += interval.bytes
            changes[min(interval.end + 1, kernels)] -= interval.bytes
            ending[min(interval.end, kernels)] += interval.bytes
    live = list(accumulate(changes[:-1]))
    return live, [total - gone for total, gone in zip(live, ending, strict=False)]


def resident_bytes(shape: Sequence[int], partition: int, halo: Halo, element_bytes: int, rows: int = 1) -> int:
    """SBUF bytes per partition of a resident tensor; `rows` of them lie beside each other on partitions."""
    others = [n for d, n in enumerate(shape) if d != partition]
    if halo:
        others = [n + low + high for n, (low, high) in zip(others, halo, strict=True)]
    return ceil(shape[partition] * rows / LANES) * (prod(others) // rows) * element_bytes


def inheritance(op: Operation, result: SSAValue) -> SSAValue | None:
    """The operand of a product's or convolution's kernel whose memory `result` could take, as far as the kernel goes.

    It is a residual that is added before anything else but a bias, and used for nothing else.
    """
    if not isinstance(op, FusedOp):
        return None
    anchor, *rest = op.body.block.ops
    if not isinstance(anchor, MatMulOp | ConvOp):
        return None
    arguments: dict[SSAValue, SSAValue] = dict(zip(op.body.block.args, op.operands, strict=True))
    total: SSAValue = anchor.result
    for following in rest:
        if total not in following.operands and following is rest[0]:
            # A residual that is scaled first: it has been read before anything is written.
            continue
        if not isinstance(following, BinaryOp) or following.kind.data != BinaryKind.ADD:
            return None
        other = following.b if following.a is total else following.a
        if isinstance(scaled := other.owner, BinaryOp) and other.has_one_use():
            other = scaled.a if spec_of(scaled.a) == spec_of(other) else scaled.b
        operand = arguments.get(other)
        if total not in (following.a, following.b) or operand is None:
            return None
        total = following.result
        if spec_of(operand)[1] != spec_of(total)[1]:
            # A bias; the residual is the next thing that is added, if any.
            continue
        alone = other.has_one_use() and [*op.operands].count(operand) == 1
        return operand if alone and spec_of(operand) == spec_of(result) else None
    return None


def set_overwrites(op: Operation, result: SSAValue, operand: SSAValue) -> None:
    """Write down that `result` takes the memory of `operand`."""
    numbers = [[*op.results, result].index(result), [*op.operands].index(operand)]
    op.attributes[OVERWRITES] = DenseArrayBase.from_list(i64, numbers)


def overwrites(op: Operation) -> dict[SSAValue, SSAValue]:
    """Result -> the operand whose memory it takes."""
    found = op.attributes.get(OVERWRITES)
    if not isinstance(found, DenseArrayBase):
        return {}
    result, operand = (int(number) for number in found.get_values())
    return {op.results[result]: op.operands[operand]}
