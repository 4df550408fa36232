"""Kernel templates of graph.matmul: which loops lower one, and how its operands lie.

Products of little matrices for each of many samples, and products with features on partitions, have templates of their
own (`sample_products.py`, `linear.py`). All others are `MatmulKernel`s, in loops over the batch dimensions along which
the right operand changes.
"""

from collections.abc import Callable, Sequence

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.k_major import Rows, k_major, swapped
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.linear import lower_linear, wants_linear
from lowering.graph_to_tile.matmul_kernel import MatmulKernel
from lowering.graph_to_tile.product_bias import take_bias
from lowering.graph_to_tile.sample_products import lower_sample_products
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor
from neuron_dialects.access import Affine
from neuron_dialects.graph import MatMulOp, spec_of
from passes.graph.kernel_layouts import matmul_rows
from passes.graph.sample_products import is_sample_products


def canonical_windows(k: Kernel, op: MatMulOp) -> tuple[Tensor, Tensor]:
    """`a` as [..., M, K], `b` as [..., K, N], equal in rank, batch dimensions broadcast; weights turned at emission."""
    batch = spec_of(op.result)[1][:-2]
    a = k.tensor(op.a)
    if isinstance(a, SbufTensor) and (bool(op.transpose_a) or a.shape[:-2] != batch or a.partition != matmul_rows(op)):
        a = k.dram(op.a)
    if isinstance(a, DramTensor):
        # Turning on an array narrower than the lanes takes two passes and twice the PSUM: a weight comes turned.
        turned = not bool(op.transpose_a) and int(k.target.pe_columns) < LANES
        a = swapped(a) if bool(op.transpose_a) else swapped(k_major(k, a)) if turned else a
        a = a.broadcast((*batch, *a.shape[-2:]))
    b = k.dram(op.b)
    b = k_major(k, b) if bool(op.transpose_b) else b
    return a, b.broadcast((*batch, *b.shape[-2:]))


def lower(k: Kernel, op: Operation, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a matmul with the pointwise `ops` behind it."""
    assert isinstance(op, MatMulOp)
    if is_sample_products(op):
        lower_sample_products(k, op, ops, results)
        return
    if wants_linear(k, op, results):
        lower_linear(k, op, ops, results)
        return
    a, b = canonical_windows(k, op)
    shape = spec_of(op.result)[1]
    rank = len(shape)
    rows = matmul_rows(op)
    bias, ops, results = take_bias(k, op, ops, results) if rank == 2 else (None, ops, results)
    epilogue = Epilogue(k, op.result, ops, results, rows)
    epilogue.prepare()
    assert isinstance(b, DramTensor)
    varying = [d for d in range(rank - 2) if b.strides[d] != 0 and b.shape[d] > 1]
    shared = [d for d in range(rank - 2) if d not in varying and shape[d] > 1 and d != rows]
    kernel = MatmulKernel(k, a, b, epilogue, shape, shared, bias)

    def outer(dims: Sequence[int], ranges: Rows) -> None:
        if not dims:
            kernel.entry(ranges)
            return
        with k.b.loop(shape[dims[0]]) as i:
            outer(dims[1:], {**ranges, dims[0]: (i, 1)})

    outer(varying, {d: (Affine(0), 1) for d in range(rank - 2) if d not in (*varying, *shared, rows)})


def _alone(k: Kernel, op: MatMulOp) -> None:
    lower(k, op, [], [op.result])


KERNELS: dict[type[Operation], Callable[[Kernel, MatMulOp], None]] = {MatMulOp: _alone}
"""Template by op class."""
