"""The order of a block's operations, compared with the block itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects import test
from xdsl.ir import Block

from passes.tile.block_order import BlockOrder


# Any moves to places before others, also before what was moved itself: the order is that of the block.
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_order_follows_moves(moves: list[tuple[int, int]]) -> None:
    ops, elsewhere = [test.TestOp() for _ in range(6)], test.TestOp()
    block = Block(ops)
    order = BlockOrder(block)
    for op, place in moves:
        if op != place:
            order.move_before(ops[op], ops[place])
    now = list(block.ops)
    for i, first in enumerate(now):
        assert [order.is_before(first, second) for second in now] == [j > i for j in range(6)]
        assert not order.is_before(first, elsewhere)
