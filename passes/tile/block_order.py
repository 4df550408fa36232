"""Which of two operations of a block comes first, without walking the block, while operations move up in it."""

from __future__ import annotations

import math

from xdsl.ir import Block, Operation

Key = tuple[float, ...]


class BlockOrder:
    """The order of the operations that a block had when this was made.

    Every operation has a key, which ends with infinity: what is moved before it gets a key that is larger than that of
    everything before it, by a number in the place of the infinity.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self._keys: dict[Operation, Key] = {op: (float(i), math.inf) for i, op in enumerate(block.ops)}
        self._moved: dict[Operation, int] = {}

    def is_before(self, first: Operation, second: Operation) -> bool:
        """Whether `first`, which is in the block, comes before `second`; not if that is somewhere else."""
        key = self._keys.get(second)
        return key is not None and self._keys[first] < key

    def move_before(self, op: Operation, place: Operation) -> None:
        """Move an operation of the block to the place right before another one."""
        op.detach()
        self._block.insert_op_before(op, place)
        self.added_before(op, place)

    def added_before(self, op: Operation, place: Operation) -> None:
        """Take note of an operation that was put right before another one of the block."""
        number = self._moved[place] = self._moved.get(place, 0) + 1
        self._keys[op] = (*self._keys[place][:-1], float(number), math.inf)
