import itertools

from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import ModuleOp, i32
from xdsl.dialects.cf import BranchOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region

from neuron_dialects.ssa_order import check_ssa_order, immediate_dominators, ssa_order_problems

# Under a name that pytest does not take for a class of tests.
AnyOp = test_dialect.TestOp


def function(*blocks: Block) -> tuple[ModuleOp, FuncOp]:
    func = FuncOp("f", ((), ()), Region(list(blocks)))
    return ModuleOp([func]), func


# Moving a definition behind its use, as a faulty scheduler would, is reported with the user and the value's name.
def test_definition_moved_behind_its_use():
    definition = AnyOp(result_types=[i32])
    definition.results[0].name_hint = "scale"
    user = AnyOp(operands=[definition.results[0]])
    block = Block([definition, user, ReturnOp()])
    module, _ = function(block)
    assert check_ssa_order(module) == []

    definition.detach()
    block.insert_op_after(definition, user)

    assert check_ssa_order(module) == ["'test.op' uses operand 0 (%scale) before it is defined"]
    assert ssa_order_problems(module)[0][0] is user


# An operand whose operation is no longer in the program is told apart from one that only stands too late.
def test_definition_taken_out_of_the_program():
    definition = AnyOp(result_types=[i32])
    module, func = function(Block([definition, AnyOp(operands=[definition.results[0]]), ReturnOp()]))

    definition.detach()

    problem = "'test.op' uses operand 0 whose definition is not part of the program"
    assert check_ssa_order(module) == check_ssa_order(func) == [problem]


# Two uses of one late value are two problems.
def test_every_use_is_reported():
    definition = AnyOp(result_types=[i32])
    user = AnyOp(operands=[definition.results[0], definition.results[0]])
    module, _ = function(Block([user, definition, ReturnOp()]))
    assert len(check_ssa_order(module)) == 2


# Unreachable blocks may use anything: nothing there ever runs.
def test_unreachable_blocks_are_not_checked():
    definition = AnyOp(result_types=[i32])
    unreachable = Block([AnyOp(operands=[definition.results[0]]), ReturnOp()])
    module, _ = function(Block([ReturnOp()]), unreachable, Block([definition, ReturnOp()]))
    assert check_ssa_order(module) == []


# A diamond: the join is dominated by the fork only; a node that nothing reaches has no dominator.
def test_immediate_dominators_of_a_diamond():
    assert immediate_dominators([[1, 2], [3], [3], [], [3]]) == [0, 0, 0, 0, None]


# The graph of the algorithm's paper (figure 4), whose two cycles need a second sweep.
def test_immediate_dominators_of_an_irreducible_graph():
    assert immediate_dominators([[1, 2], [3], [4], [4], [3, 5], [4]]) == [0, 0, 0, 0, 0, 4]


def reachable_without(successors: list[list[int]], removed: int | None) -> set[int]:
    seen: set[int] = set()
    pending = [0]
    while pending:
        node = pending.pop()
        if node not in seen and node != removed:
            seen.add(node)
            pending.extend(successors[node])
    return seen


graphs = st.integers(1, 8).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, n - 1), max_size=3), min_size=n, max_size=n)
)


# On any graph: the immediate dominator is the nearest node without which the entry does not reach the node.
@given(graphs)
def test_immediate_dominators_by_definition(successors: list[list[int]]):
    found = immediate_dominators(successors)
    reachable = reachable_without(successors, None)
    dominators = {
        node: {other for other in reachable if other == node or node not in reachable_without(successors, other)}
        for node in reachable
    }
    for node in range(len(successors)):
        if node not in reachable:
            assert found[node] is None or node == 0
        elif node != 0:
            strict = dominators[node] - {node}
            nearest = [a for a in strict if all(b in dominators[a] for b in strict)]
            assert nearest == [found[node]]


# Straight-line code and a deep chain of blocks are checked without recursion over the number of operations or blocks.
def test_long_programs():
    blocks = [Block() for _ in range(3000)]
    previous = AnyOp(result_types=[i32])
    blocks[0].add_op(previous)
    for block, following in itertools.pairwise(blocks):
        op = AnyOp(operands=[previous.results[0]], result_types=[i32])
        block.add_ops([op, BranchOp(following)])
        previous = op
    blocks[-1].add_op(ReturnOp())
    module, _ = function(*blocks)
    assert check_ssa_order(module) == []
