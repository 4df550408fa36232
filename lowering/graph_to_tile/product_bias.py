"""The bias of a product with rows on partitions, added by the tensor engine.

A bias along the columns of a result that has rows on partitions is one row for all lanes, which no engine broadcasts on
its way out of PSUM: adding it costs the vector engine a pass over two tiles in SBUF. As a product it costs the tensor
engine one more k tile, of few lanes:

    y[rows, n] += ones[parts, rows]^T . parts[parts, n]        parts: bf16 numbers whose sum is the bias
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import BF16, F32, dtype_by_name
from neuron_dialects.graph import BinaryKind, BinaryOp, CastOp, ConcatOp, MatMulOp, ReshapeOp, spec_of

PARTS = {F32: 3, BF16: 1}
"""bf16 numbers that hold one of a type: an f32 has 24 bits, 8 for each."""


@dataclass
class ProductBias:
    """A bias whose parts lie in DRAM, `source` [parts, columns], and `ones` [parts, 128] on chip."""

    ones: View
    source: View

    @property
    def row_bytes(self) -> int:
        """SBUF bytes per partition of all columns."""
        return self.source.shape[1] * BF16.size_bytes

    def whole(self, k: Kernel) -> View:
        """The parts of all columns, on chip for the whole kernel."""
        parts = k.b.alloc_outer(self.source.shape, "bf16", "sbuf", "bias").view()
        k.b.load(parts, self.source)
        return parts

    def load(self, k: Kernel, columns: tuple[Affine, int], copies: int) -> View:
        """The parts of `columns` (start, size), in one of `copies` tiles that rotate."""
        row = k.b.alloc((self.source.shape[0], columns[1]), "bf16", "sbuf", copies, "bias").view()
        k.b.load(row, self.source.slice(1, *columns))
        return row

    def begin(self, k: Kernel, bank: View, row: View) -> None:
        """Begin the sums of `bank` [rows, n] with the bias of its columns, `row` [parts, n] on chip."""
        columns = int(k.target.pe_columns)
        for low in range(0, bank.partitions, columns):
            width = min(columns, bank.partitions - low)
            k.b.matmul(bank.slice(0, low, width), self.ones.slice(1, 0, width), row, 0)


def take_bias(
    k: Kernel, op: MatMulOp, ops: Sequence[Operation], results: Sequence[SSAValue]
) -> tuple[ProductBias | None, Sequence[Operation], Sequence[SSAValue]]:
    """The bias among the pointwise `ops` behind a product, if there is one, and ops and results without its addition.

    The addition leaves the block; what read its result reads what the bias was added to.
    """
    found = _bias_of(k, op, ops) if k.takes("bias-products") else None
    if found is None:
        return None, ops, results
    addition, number, tensor = found
    kept, made = addition.operands[1 - number], addition.result
    results = [kept if value is made else value for value in results]
    if made in k.residents:
        k.residents[kept] = k.residents[made]
    if made in k.destinations:
        k.destinations[kept] = k.destinations.pop(made)
    if made in k.inherits:
        k.inherits[kept] = k.inherits[made]
    made.replace_all_uses_with(kept)
    block = addition.parent_block()
    assert block is not None
    block.erase_op(addition)
    return product_bias(k, tensor), [other for other in ops if other is not addition], results


def product_bias(k: Kernel, tensor: DramTensor) -> ProductBias:
    """The numbers of a dense constant, of a type in `PARTS`, to be added along the columns."""
    symbol, columns, count = tensor.symbol or "", prod(tensor.shape), PARTS[dtype_by_name(tensor.dtype)]
    source = k.derive(f"{symbol}.parts", [symbol], lambda v: _parts(v[0], columns, count)) if count > 1 else tensor
    row = source.reshape((count, columns))
    assert row is not None, "a dense tensor has any shape"
    ones = k.b.alloc_outer((count, LANES), "bf16", "sbuf", "ones").view()
    k.b.memset(ones, 1.0)
    return ProductBias(ones, row.view())


def _bias_of(k: Kernel, op: MatMulOp, ops: Sequence[Operation]) -> tuple[BinaryOp, int, DramTensor] | None:
    """The addition of a bias to the product, or to sums with it; which operand the bias is, and where it lies."""
    if spec_of(op.a)[0] is not BF16 or spec_of(op.b)[0] is not BF16 or spec_of(op.result)[0] not in PARTS:
        return None
    sum_: SSAValue = op.result
    for other in ops:
        if sum_ not in other.operands:
            continue
        if not isinstance(other, BinaryOp) or other.kind.data is not BinaryKind.ADD or not sum_.has_one_use():
            return None
        number = 1 if other.a is sum_ else 0
        value = other.operands[number]
        tensor = k.tensors.get(value)
        columns = spec_of(op.result)[1][-1]
        dtype, shape = spec_of(value)
        row = dtype in PARTS and shape in ((columns,), (1, columns))
        if row and isinstance(tensor, DramTensor) and tensor.symbol in k.weight_types and not tensor.element:
            return (other, number, tensor) if tensor.is_dense and tensor.offset == 0 else None
        sum_ = other.result
    return None


def _parts(bias: SSAValue, columns: int, count: int) -> list[Operation]:
    """Recipe of [count, columns] bf16: the bias, what that leaves of it, what this leaves, and so on."""
    row = ReshapeOp(bias, (1, columns))
    ops: list[Operation] = [row]
    rest, parts = row.result, list[SSAValue]()
    for _ in range(count):
        part = CastOp(rest, BF16)
        wide = CastOp(part.result, F32)
        left = BinaryOp(BinaryKind.SUB, rest, wide.result)
        ops += [part, wide, left]
        parts.append(part.result)
        rest = left.result
    return [*ops, ConcatOp(parts, 0)]
