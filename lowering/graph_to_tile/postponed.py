"""Products that wait for the attention that reads them, and make its operands sequence by sequence.

The tensor engine has little to do while the other engines are at softmax. Projections of later sequences fill its time:
a product whose only reader is one attention over several sequences is not lowered where it stands, but handed to that
attention, which emits its columns between its own stages. Where these are few, it is lowered in front of it after all.
"""

from collections.abc import Sequence
from math import ceil

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.attention_projections import SUM_BANKS
from lowering.graph_to_tile.attention_short import has_short_form
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.neighbours import room_bytes
from neuron_dialects.cost import latency_ns
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import AttentionOp, BinaryKind, BinaryOp, FusedOp, WeightOp, layout_of, shape_of, spec_of
from neuron_dialects.target import Target
from passes.graph.aliases import readers
from passes.graph.conv_groups import LANES
from passes.graph.kernel_layouts import FEATURES, anchor_of, is_matrix_product, multiplied

LEAST_SEQUENCES = 3
"""Sequences of a batch from which on there are later ones to work on."""


def postponed_products(ops: Sequence[Operation], profile: Sequence[int], target: Target) -> dict[Operation, Operation]:
    """Kernel of a product -> the attention that it waits for; `profile`: resident bytes while each op runs."""
    number = {op: i for i, op in enumerate(ops)}
    found: dict[Operation, list[Operation]] = {}
    for op in ops:
        attention = _only_reader(op, target)
        if attention is not None and _fills_evictions(op, attention, target):
            found.setdefault(attention, []).append(op)
    limit = room_bytes(target)
    waiting: dict[Operation, Operation] = {}
    for attention, products in found.items():
        needed = profile[number[attention]] + sum(_weight_bytes(op) for op in products) + _operand_bytes(products)
        if needed <= limit:
            waiting |= dict.fromkeys(products, attention)
    return waiting


def value_products(k: Kernel, ops: Sequence[Operation], profile: Sequence[int]) -> dict[Operation, AttentionOp]:
    """Kernel of a product -> the attention over short sequences that alone reads it, as values, and makes them itself.

    That attention contracts values along their positions. A product that leaves these on partitions spares it turning
    what leaves PSUM with features there. Where it looks for maxima, the tensor engine has no time for that.
    """
    number = {op: i for i, op in enumerate(ops)}
    limit = room_bytes(k.target)
    found: dict[Operation, AttentionOp] = {}
    for op in ops:
        attention = _reader_of_values(op)
        if attention is None or attention.score_shift is None or not has_short_form(k, attention):
            continue
        needed = profile[number[attention]] + _weight_bytes(op) + _operand_bytes([op])
        if needed <= limit:
            found[op] = attention
    return found


def _reader_of_values(op: Operation) -> AttentionOp | None:
    """The attention that alone reads what a product of features on chip leaves there, as its values, plus a bias."""
    if len(op.results) != 1 or not is_matrix_product(anchor_of(op)) or _operand(op) is None:
        return None
    inner = list(op.body.block.ops)[1:-1] if isinstance(op, FusedOp) else []
    if len(inner) > 1 or not all(isinstance(add, BinaryOp) and add.kind.data is BinaryKind.ADD for add in inner):
        return None
    layout = layout_of(op.results[0])
    if layout is None or layout.partition_dimension != FEATURES or spec_of(op.results[0])[0] is not BF16:
        return None
    ((user, operand), *others) = readers(op.results[0], FEATURES) or [(op, op.results[0])]
    if others or not isinstance(user, AttentionOp) or any(x is operand for x in (user.q, user.k, user.mask)):
        return None
    return user if shape_of(operand)[-1] == shape_of(op.results[0])[-1] else None


def _only_reader(op: Operation, target: Target) -> AttentionOp | None:
    """The attention over several sequences that alone reads what a product of matrices leaves on chip.

    A sequence is one moving tile of the product, so it has to fit into one.
    """
    if not op.results or not is_matrix_product(anchor_of(op)) or _operand(op) is None:
        return None
    if any((layout := layout_of(result)) is None or layout.partition_dimension != FEATURES for result in op.results):
        return None
    users = dict.fromkeys(user for result in op.results for user, _ in readers(result, FEATURES))
    attention = next(iter(users), None)
    if len(users) != 1 or not isinstance(attention, AttentionOp):
        return None
    projected = all((layout := layout_of(value)) is not None for value in (attention.q, attention.k, attention.v))
    sequences, length, _ = spec_of(attention.q)[1]
    same = length == spec_of(attention.k)[1][1] and spec_of(attention.v)[0] is spec_of(attention.result)[0]
    fits = sequences >= LEAST_SEQUENCES and length <= int(target.pe_moving_elements)
    return attention if projected and same and fits else None


def _fills_evictions(op: Operation, attention: AttentionOp, target: Target) -> bool:
    """Whether the columns of one sequence keep the tensor engine as long as those before are on their way out of PSUM.

    Else it is quicker to make wider tiles, of the columns of several sequences, in front of the attention.
    """
    operand = _operand(op)
    assert operand is not None
    length, features = spec_of(attention.q)[1][1], spec_of(operand)[1][1]
    product_ns = ceil(features / LANES) * length / target.clock_ghz("pe")
    eviction_ns = latency_ns("pe", target) + length / target.clock_ghz("act") + latency_ns("act", target)
    return SUM_BANKS * product_ns >= eviction_ns


def _operand(op: Operation) -> SSAValue | None:
    """The matrix on chip, features on partitions, that a kernel multiplies."""
    for value in op.operands:
        layout = layout_of(value)
        if layout is not None and layout.partition_dimension == FEATURES and multiplied(op, value):
            return value
    return None


def _weight_bytes(op: Operation) -> int:
    """Bytes per partition of the weights of a product."""
    weights = [spec_of(value) for value in op.operands if isinstance(value.owner, WeightOp)]
    return sum(ceil(shape[0] / LANES) * shape[1] * dtype.size_bytes for dtype, shape in weights if len(shape) == 2)


def _operand_bytes(products: Sequence[Operation]) -> int:
    """Bytes per partition of what the products multiply."""
    operands = dict.fromkeys(value for op in products if (value := _operand(op)) is not None)
    specs = [spec_of(value) for value in operands]
    return sum(ceil(shape[1] / LANES) * shape[0] * dtype.size_bytes for dtype, shape in specs)
