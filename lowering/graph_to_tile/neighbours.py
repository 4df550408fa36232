"""Kernels that the next one makes up for, where memory has room for what then stays on chip for longer."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from xdsl.ir import Operation

from neuron_dialects.graph import ConstantOp, WeightOp
from neuron_dialects.target import Target

MEMORY_SHARE = 0.92
"""Part of SBUF that resident tensors may take together with what a kernel that is put off keeps there."""

Found = TypeVar("Found")


def room_bytes(target: Target) -> int:
    """Bytes of a partition that resident tensors and what kernels that are put off keep there may take together."""
    return int(int(target.sbuf_bytes_per_partition) * MEMORY_SHARE)


def neighbours_with_room(
    ops: Sequence[Operation],
    profile: Sequence[int],
    target: Target,
    relation: Callable[[Operation, Operation], Found | None],
    kept_bytes: Callable[[Operation, Found], int],
) -> dict[Operation, Found]:
    """Kernel -> its `relation` to the kernel behind it, if there is one.

    `profile`: resident bytes by op; `kept_bytes`: how many more a kernel that is put off takes while the next one runs.
    """
    kernels = [(number, op) for number, op in enumerate(ops) if not isinstance(op, WeightOp | ConstantOp)]
    limit = room_bytes(target)
    found: dict[Operation, Found] = {}
    for (_, op), (number, following) in pairwise(kernels):
        related = relation(op, following)
        if related is not None and profile[number] + kept_bytes(op, related) <= limit:
            found[op] = related
    return found
