"""Values that are other names for the memory of a resident tensor, and who reads it through them.

A reshape that keeps the dimension on the partitions, or a slice of whole tiles of it, needs no kernel: its result lies
where its operand does.
"""

from math import prod

from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import ReshapeOp, SliceOp, ints, shape_of
from passes.graph.conv_groups import LANES


def own_partition(alias: SSAValue, partition: int, value: SSAValue) -> int:
    """The partition dimension of `alias`, another name for the memory of `value` with `partition` on partitions."""
    if alias is value:
        return partition
    owner = alias.owner
    assert isinstance(owner, ReshapeOp | SliceOp)
    kept = kept_partition(owner, own_partition(owner.x, partition, value))
    assert kept is not None
    return kept


def readers(value: SSAValue, partition: int) -> list[tuple[Operation, SSAValue]]:
    """(kernel, operand) pairs that read `value`, through reshapes and slices that keep the partitions as they are."""
    found: list[tuple[Operation, SSAValue]] = []
    pending = [(value, partition)]
    while pending:
        current, dimension = pending.pop()
        for user in dict.fromkeys(use.operation for use in current.uses):
            kept = kept_partition(user, dimension)
            if kept is None:
                found.append((user, current))
            else:
                pending.append((user.results[0], kept))
    return found


def kept_partition(op: Operation, partition: int) -> int | None:
    """The partition dimension of the result of an op that is another name for the memory of its operand.

    None where the op needs a kernel of its own.
    """
    if isinstance(op, ReshapeOp):
        before, after = shape_of(op.x), shape_of(op.result)
        if partition == len(before) - 1 and before[-1:] == after[-1:]:
            return len(after) - 1
        lead, size = prod(before[:partition]), before[partition]
        return next((d for d, n in enumerate(after) if n == size > 1 and prod(after[:d]) == lead), None)
    if isinstance(op, SliceOp) and partition == len(shape_of(op.x)) - 1:
        before, after = shape_of(op.x), shape_of(op.result)
        aligned = before[:-1] == after[:-1] and after[-1] % LANES == 0 and ints(op.starts)[-1] % LANES == 0
        return len(after) - 1 if aligned and all(step == 1 for step in ints(op.steps)) else None
    return None


def with_steps(aliases: set[SSAValue], value: SSAValue) -> list[SSAValue]:
    """Aliases and the values between them and `value`."""
    found: dict[SSAValue, None] = {}
    for alias in aliases:
        current = alias
        while current is not value:
            found[current] = None
            owner = current.owner
            assert isinstance(owner, ReshapeOp | SliceOp)
            current = owner.x
    return [value, *found]
