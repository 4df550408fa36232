"""`graph-chain-pixels`: pointwise convolutions that follow each other run piece by piece, one piece apart.

Kernels run one after the other. A convolution of one tap with many outputs and a GELU keeps the engine busy that
evaluates it, the one behind it the tensor engine, a layer normalisation the vector engine; and what is between them has
to lie somewhere, of all images. Given core functions of fused groups, the pass marks chains of such kernels, where that
would not fit on chip. Each reads of the others' results the same pixels that it makes; so the kernels of a chain are
emitted together: while the last one works on a piece of an image, the one before works on the next piece. Between them
lie two pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import ConvOp, FusedOp, UnaryKind, UnaryOp, shape_of
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.remarks import listening, remark
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES
from passes.graph.fold_images import is_computed
from passes.graph.fuse import POINTWISE
from passes.graph.kernel_layouts import BANDS, anchor_of, outer_value
from passes.graph.pieces import CHAINED, SLOTS, ring_bytes, rows_of_piece

NO_TABLE = frozenset({UnaryKind.ABS, UnaryKind.NEG, UnaryKind.SQUARE, UnaryKind.RELU, UnaryKind.SIGN})
"""Functions that the scalar engine has in whatever table it has loaded, or that it is not asked for."""

LONGEST = 4
"""Most kernels of a chain: each has banks of PSUM of its own, two at least."""

RING_SHARE = 0.25
"""Part of SBUF that the pieces between the kernels of a chain may take."""

WHOLE_SHARE = 0.5
"""Part of SBUF that all that lies between these kernels takes at least: what has room there needs no chain."""

LEAST_PIECES = 4
"""Pieces that a chain has at least: its kernels begin and end one after the other."""

LEAST_CHANNELS = LANES // 2 + 1
"""Channels that each map of a chain has at least: `graph-fold-images` lays thinner ones of several images side by side.
"""

LEAST_COLUMNS = 128
"""Pixels that a piece has at least: what is fixed of an instruction weighs more for fewer."""


@dataclass(frozen=True)
class GraphChainPixelsPass(ModulePass):
    """Mark chains of pointwise convolutions that run piece by piece.

        %1 = graph.fused (...) : ... -> tensor<4x384x56x56xbf16>  // 1x1 convolution, bias, GELU
        %2 = graph.fused (... %1 ...) : ... -> tensor<4x96x56x56xbf16>  // 1x1 convolution, residual

    becomes, where nobody else reads %1,

        %1 = graph.fused (...) {graph.chained = 28} : ... -> tensor<4x384x56x56xbf16>
        %2 = graph.fused (... %1 ...) : ... -> tensor<4x96x56x56xbf16>
    """

    name = "graph-chain-pixels"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Mark in every core function."""
        for function in core_functions(op):
            chain_block(function.body.block, target_of(op))


def chain_block(block: Block, target: Target) -> None:
    """Mark in one block."""
    kernels = [op for op in block.ops if is_computed(op)]
    for found in _candidates(kernels):
        chain = found[:-1] if _is_made_in_blocks(found[-1]) else found
        rows = piece_rows(chain, target) if len(chain) > 1 else None
        if rows is None:
            continue
        for op in chain[:-1]:
            op.attributes[CHAINED] = IntegerAttr(rows, i64)
        if listening():
            remark("passed", "chain", f"{len(chain)} kernels run piece by piece, {rows} rows each", op=chain[0])


def _candidates(kernels: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Runs of neighbouring pointwise convolutions, each of which alone reads the results of the one before."""
    chain: list[Operation] = []
    for op in kernels:
        fits = _is_pointwise(op)
        if chain and not (fits and len(chain) < LONGEST and _hands_over(chain[-1], op)):
            if len(chain) > 1:
                yield chain
            chain = []
        if fits:
            chain.append(op)
    if len(chain) > 1:
        yield chain


def _is_pointwise(op: Operation) -> bool:
    """Whether a kernel is a convolution of one tap over whole feature maps, with operators for each pixel behind it."""
    conv = anchor_of(op)
    if not isinstance(conv, ConvOp) or conv.bias is not None or len(shape_of(conv.x)) != 4:
        return False
    if not conv.is_pointwise or conv.groups.value.data != 1 or BANDS in conv.attributes:
        return False
    inner = list(op.body.block.ops)[1:-1] if isinstance(op, FusedOp) else []
    if not all(isinstance(behind, POINTWISE) for behind in inner):
        return False
    shape = shape_of(conv.result)
    return all(shape_of(result) == shape for result in op.results)


def _is_made_in_blocks(op: Operation) -> bool:
    """Whether a convolution in groups alone reads what a kernel makes, and is served better a block of channels ahead
    of it than with all channels of a piece.
    """
    users = {use.operation for value in op.results for use in value.uses}
    anchors = [anchor_of(user) for user in users]
    return len(anchors) == 1 and isinstance(anchors[0], ConvOp) and anchors[0].groups.value.data > 1


def functions_of(op: Operation) -> set[UnaryKind]:
    """The functions that a kernel needs a table for."""
    return {inner.kind.data for inner in op.walk() if isinstance(inner, UnaryOp)} - NO_TABLE


def _hands_over(op: Operation, following: Operation) -> bool:
    """Whether `following` multiplies what `op` makes, and reads all results of it, which nobody else does."""
    conv = anchor_of(following)
    if not isinstance(conv, ConvOp) or outer_value(following, conv.x) not in op.results:
        return False
    return all({use.operation for use in value.uses} == {following} for value in op.results)


def piece_rows(chain: Sequence[Operation], target: Target) -> int | None:
    """Rows of an image in a piece of a chain: as many as have room.

    None where all images have room, or there are too few pieces, pixels, or channels.
    """
    images, _, rows, columns = shape_of(chain[0].results[0])
    if any(shape_of(value)[1] < LEAST_CHANNELS for value in between(chain)):
        return None
    bank = min(int(target.pe_moving_elements), int(target.psum_bank_bytes) // 4)
    room = RING_SHARE * int(target.sbuf_bytes_per_partition)
    whole = images / SLOTS * sum(ring_bytes(value, rows) for value in between(chain))
    if whole < WHOLE_SHARE * int(target.sbuf_bytes_per_partition) or columns > bank:
        return None
    for pieces in range(1, rows + 1):
        size = rows // pieces
        taken = sum(ring_bytes(value, size) for value in between(chain))
        if rows % pieces == 0 and images * pieces >= LEAST_PIECES and taken <= room:
            return size if size * columns >= LEAST_COLUMNS else None
    return None


def between(chain: Sequence[Operation]) -> Iterator[SSAValue]:
    """What lies between the kernels of a chain."""
    for op in chain[:-1]:
        yield from op.results


def chains(ops: Sequence[Operation]) -> list[list[Operation]]:
    """The chains among kernels in program order, as they are marked; marks of kernels that are in none are taken away.

    Passes that came in between may have copied or moved a part of a chain.
    """
    found: list[list[Operation]] = []
    chain: list[Operation] = []
    for op in filter(is_computed, ops):
        if chain and not (_hands_over(chain[-1], op) and _is_pointwise(op) and _has_pieces(chain[-1])):
            unchain(chain)
            chain = []
        if chain or CHAINED in op.attributes:
            chain.append(op)
        if chain and CHAINED not in op.attributes:
            found.append(chain)
            chain = []
    unchain(chain)
    return found


def _has_pieces(op: Operation) -> bool:
    """Whether the images of a kernel with a mark still consist of such pieces."""
    rows = rows_of_piece(op.results[0])
    return _is_pointwise(op) and rows is not None and shape_of(op.results[0])[2] % rows == 0


def unchain(chain: Sequence[Operation]) -> None:
    """Take the marks of a chain away."""
    for op in chain:
        op.attributes.pop(CHAINED, None)


def spans(ops: Sequence[Operation]) -> tuple[Mapping[Operation, int], Mapping[Operation, int]]:
    """For each op the number of the first and of the last op that it runs together with."""
    first = {op: number for number, op in enumerate(ops)}
    last = dict(first)
    for chain in chains(ops):
        begin, end = first[chain[0]], last[chain[-1]]
        first.update(dict.fromkeys(chain, begin))
        last.update(dict.fromkeys(chain, end))
    return first, last
