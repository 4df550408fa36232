"""Forms of a tensor that several readers share: turned, brought on chip once, or stored beside the one on chip.

Given a block before layouts are chosen, leaves `graph.relayout` operators where a tensor is wanted in two places or two
ways. A matrix that several products read turned is turned once for all of them; an argument that several kernels read
is loaded once; a result of the function that is read inside too may stay on chip, and is stored from there.
"""

from collections.abc import Iterable, Iterator, Sequence, Set

from xdsl.dialects import func
from xdsl.ir import Block, Operation, SSAValue, Use
from xdsl.rewriter import Rewriter

from neuron_dialects.graph import ConcatOp, RelayoutOp, ReorderRowsOp, ReshapeOp, SliceOp, layout_of, shape_of
from passes.graph.kernel_layouts import anchor_of, is_matrix_product, multiplied, turns


def share_turned(block: Block) -> None:
    """Give the products that read one matrix of rows a common turned form of it.

    A matrix of rows is one that something else than products reads too, or that is an argument or a result of
    normalisation.
    """
    made = [op for op in block.ops if not (is_matrix_product(anchor_of(op)) or turns(op))]
    for value in [*block.args, *(result for op in made for result in op.results)]:
        products = [use for use in value.uses if multiplied(use.operation, value)]
        if len(shape_of(value)) == 2 and len(products) > 1:
            if isinstance(value.owner, ReorderRowsOp):
                # Features are on partitions before rows change their order within each lane.
                _share(block, value.owner.x, [Use(value.owner, 0)])
            else:
                _share(block, value, products)


def keep_arguments(block: Block) -> None:
    """Give the kernels that read one argument, where there are several, a common form of it that may stay on chip."""
    for value in block.args:
        kernels = {user for user in _readers(value) if not isinstance(user, func.ReturnOp)}
        if len(shape_of(value)) > 1 and len(kernels) > 1:
            inside = [use for use in value.uses if not isinstance(use.operation, func.ReturnOp)]
            _share(block, value, inside)


def keep_results(block: Block) -> None:
    """Return another form of what is returned and read inside too, so that its readers may find it on chip."""
    returned = block.last_op
    if not isinstance(returned, func.ReturnOp):
        return
    for index, value in enumerate(returned.operands):
        if isinstance(value.owner, Operation) and value.owner.operands and len(shape_of(value)) > 1:
            readers = list(_readers(_root(value)))
            if readers.count(returned) == 1 and len(readers) > 1:
                _share(block, value, [Use(returned, index)])


def keep_parts(block: Block, on_chip: Set[Operation]) -> None:
    """Put other forms of feature maps together, where these are read otherwise too and may stay on chip for that.

    Channels may be put together on chip, and images by the operators `on_chip`.
    """
    for op in list(block.ops):
        if not isinstance(op, ConcatOp) or len(shape_of(op.result)) < 3 or op.axis.value.data == 1 or op in on_chip:
            continue
        for index, value in enumerate(op.xs):
            made = isinstance(value.owner, Operation) and len(value.owner.operands) > 0
            if made and not value.has_one_use() and not isinstance(value.owner, ReshapeOp | SliceOp | RelayoutOp):
                _share(block, value, [Use(op, index)])


def drop_idle(block: Block) -> None:
    """Take out what changes nothing after all: forms that do not stay on chip, and copies of results that do not."""
    for op in list(block.ops):
        if isinstance(op, RelayoutOp) and layout_of(op.result) is None:
            if not gives_out(op) or layout_of(op.x) is None:
                Rewriter.replace_op(op, [], [op.x])


def gives_out(op: Operation) -> bool:
    """Whether an operator only stores a result of the function, or a part of what is put together in DRAM."""
    users = [use.operation for result in op.results for use in result.uses]
    return (
        isinstance(op, RelayoutOp) and bool(users) and all(isinstance(user, func.ReturnOp | ConcatOp) for user in users)
    )


def _share(block: Block, value: SSAValue, uses: Sequence[Use]) -> None:
    """Let the uses of a value have a form of it that is made right behind it."""
    relayout = RelayoutOp(value)
    if isinstance(value.owner, Operation):
        relayout.location = value.owner.location
        block.insert_op_after(relayout, value.owner)
    else:
        relayout.location = uses[0].operation.location
        assert block.first_op is not None
        block.insert_op_before(relayout, block.first_op)
    for use in uses:
        use.operation.operands[use.index] = relayout.result


def _root(value: SSAValue) -> SSAValue:
    """The value whose memory this one is another name for."""
    while isinstance(value.owner, ReshapeOp | SliceOp):
        value = value.owner.x
    return value


def _readers(value: SSAValue) -> Iterator[Operation]:
    """What reads a value, through other names for its memory: each as often as it does."""
    pending: list[Iterable[Use]] = [value.uses]
    while pending:
        for use in pending.pop():
            if isinstance(use.operation, ReshapeOp | SliceOp):
                pending.append(use.operation.results[0].uses)
            else:
                yield use.operation
