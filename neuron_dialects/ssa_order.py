"""The rule that a value is defined before it is used, which xDSL's own verifier does not check.

`check_ssa_order` is given an operation that is isolated from above (a module, a function) and says which operands below
it are used where their definition does not reach: earlier in the block, in a block that the definition does not
dominate, outside of the region that defines it, or after the defining operation was erased. Unreachable blocks are not
checked, as in MLIR. Every operation is looked at once; dominators are only computed for regions of several blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xdsl.ir import Block, Operation, Region, SSAValue


def check_ssa_order(op: Operation) -> list[str]:
    """One line for each operand below `op` that its definition does not reach."""
    return [f"'{user.name}' {problem}" for user, problem in ssa_order_problems(op)]


def ssa_order_problems(op: Operation) -> list[tuple[Operation, str]]:
    """As `check_ssa_order`, as pairs of the operation whose operand it is and what is wrong with it."""
    check = _OrderCheck(op)
    for region in op.regions:
        check.check_region(region)
    return check.problems


def immediate_dominators(successors: Sequence[Sequence[int]]) -> list[int | None]:
    """The immediate dominator of every node of a control flow graph.

    Args:
        successors: for each node the nodes that may come next; node 0 is the entry.

    Returns:
        for each node its immediate dominator; the entry is its own, an unreachable node has None.
    """
    # Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm": intersect tree paths until nothing changes.
    order = _reverse_postorder(successors)
    rank = {node: position for position, node in enumerate(order)}
    predecessors: dict[int, list[int]] = {node: [] for node in order}
    for node in order:
        for successor in successors[node]:
            predecessors[successor].append(node)

    dominator: list[int | None] = [None] * len(successors)
    dominator[0] = 0
    changed = True
    while changed:
        changed = False
        for node in order[1:]:
            new: int | None = None
            for predecessor in predecessors[node]:
                if dominator[predecessor] is None:
                    continue
                new = predecessor if new is None else _common_dominator(new, predecessor, dominator, rank)
            if new != dominator[node]:
                dominator[node] = new
                changed = True
    return dominator


def _common_dominator(a: int, b: int, dominator: Sequence[int | None], rank: dict[int, int]) -> int:
    while a != b:
        if rank[a] < rank[b]:
            a, b = b, a
        parent = dominator[a]
        assert parent is not None, "a node that was reached has a dominator"
        a = parent
    return a


def _reverse_postorder(successors: Sequence[Sequence[int]]) -> list[int]:
    """Nodes that the entry reaches, each after all its predecessors but those of back edges."""
    postorder: list[int] = []
    seen = {0}
    pending: list[tuple[int, Iterator[int]]] = [(0, iter(successors[0]))]
    while pending:
        node, remaining = pending[-1]
        for successor in remaining:
            if successor not in seen:
                seen.add(successor)
                pending.append((successor, iter(successors[successor])))
                break
        else:
            postorder.append(node)
            pending.pop()
    return postorder[::-1]


class _OrderCheck:
    """One walk over an operation's regions; `visible` holds the values that reach the point of the walk."""

    problems: list[tuple[Operation, str]]

    def __init__(self, root: Operation) -> None:
        self.problems = []
        self._root = root
        self._visible: set[SSAValue] = set()

    def check_region(self, region: Region) -> None:
        blocks = list(region.blocks)
        if len(blocks) == 1:
            self._visible.difference_update(self._check_block(blocks[0]))
        elif blocks:
            self._check_graph(blocks)

    def _check_block(self, block: Block) -> list[SSAValue]:
        """Check the operations of `block`; the values that it defines stay visible and are returned."""
        defined: list[SSAValue] = list(block.args)
        self._visible.update(defined)
        for op in block.ops:
            for index, operand in enumerate(op.operands):
                if operand not in self._visible:
                    self.problems.append((op, self._message(op, index, operand)))
            for region in op.regions:
                self.check_region(region)
            self._visible.update(op.results)
            defined.extend(op.results)
        return defined

    def _check_graph(self, blocks: Sequence[Block]) -> None:
        """Check the blocks down the dominator tree: what a block defines is visible in the blocks it dominates."""
        number = {block: index for index, block in enumerate(blocks)}
        successors = [[number[target] for target in _successors(block) if target in number] for block in blocks]
        dominated: list[list[int]] = [[] for _ in blocks]
        for index, dominator in enumerate(immediate_dominators(successors)):
            if index and dominator is not None:
                dominated[dominator].append(index)
        # An entry of the stack is a block to check, or the values that go out of sight when its subtree is done.
        pending: list[int | list[SSAValue]] = [0]
        while pending:
            item = pending.pop()
            if isinstance(item, list):
                self._visible.difference_update(item)
            else:
                pending.append(self._check_block(blocks[item]))
                pending.extend(reversed(dominated[item]))

    def _message(self, op: Operation, index: int, operand: SSAValue) -> str:
        name = f" (%{operand.name_hint})" if operand.name_hint else ""
        owner = operand.owner
        toplevel = owner.get_toplevel_object()
        if toplevel is not self._root.get_toplevel_object():
            fault = "whose definition is not part of the program"
        elif isinstance(owner, Operation) and owner.parent is op.parent:
            fault = "before it is defined"
        else:
            fault = "where its definition does not reach"
        return f"uses operand {index}{name} {fault}"


def _successors(block: Block) -> Sequence[Block]:
    return () if block.last_op is None else block.last_op.successors
