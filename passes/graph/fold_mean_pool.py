"""`graph-fold-mean-pool`: the mean over windows behind a convolution of one tap as filters over these windows.

The transitions of densely connected networks multiply the channels of each pixel and keep the mean of every 2 x 2 of
the results. Both are sums, so that a convolution with the weights over four in each tap of a window yields the mean at
once: as many multiply-adds, but a quarter of the results leave PSUM, and nothing sweeps over them again. Given
graph-level functions, leaves such pairs as one convolution where what they save takes longer than loading the filters,
which hold each weight once for each tap.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    PoolKind,
    PoolOp,
    ReshapeOp,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.neuron import target_of
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES
from passes.graph.weight_values import is_known
from passes.rewriting import Rewrite, apply_rewrites, rewrites

MOST_TAPS = 16
"""Pixels of a window at most: each is a tap of the filters."""


@dataclass(frozen=True)
class GraphFoldMeanPoolPass(ModulePass):
    """Make filters of a mean over windows behind a convolution of one tap.

        %0 = graph.conv %x, %w ... : (tensor<8x256x56x56xf32>, tensor<128x256x1x1xf32>) -> tensor<8x128x56x56xf32>
        %1 = graph.pool average %0 kernel [2, 2] strides [2, 2] ... -> tensor<8x128x28x28xf32>

    becomes, with a quarter of %w in each of four taps,

        %1 = graph.conv %x, %f strides [2, 2] ... : (tensor<8x256x56x56xf32>, tensor<128x256x2x2xf32>) -> ...
    """

    name = "graph-fold-mean-pool"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fold wherever it pays."""
        apply_rewrites(op, [fold_mean(target_of(op))])


def fold_mean(target: Target) -> Rewrite:
    """pool average(conv(x, w) + b) -> conv(x, w / taps in each tap) + b, for one tap of w and windows side by side"""

    @rewrites(PoolOp)
    def fold_mean_pool(op: PoolOp, rewriter: PatternRewriter) -> None:
        conv = op.x.owner
        if not isinstance(conv, ConvOp) or not _are_sums(op, conv) or not _pays(op, conv, target):
            return
        kernel, taps = ints(op.kernel), prod(ints(op.kernel))
        dtype, (outputs, inputs, *ones) = spec_of(conv.w)
        share = ConstantOp(1.0 / taps, dtype, ())
        weight = BinaryOp(BinaryKind.MUL, conv.w, share)
        copies = ConcatOp([weight.result] * taps, 2)
        filters = ReshapeOp(copies.result, (outputs, inputs, *kernel))
        made: list[Operation] = [share, weight, copies, filters]
        folded = ConvOp(
            conv.x,
            filters.result,
            conv.bias,
            strides=kernel,
            pads=ints(conv.pads),
            dilations=[1] * len(ones),
            groups=conv.groups.value.data,
        )
        rewriter.replace(op, [*made, folded])

    return fold_mean_pool


def _are_sums(op: PoolOp, conv: ConvOp) -> bool:
    """Whether each mean is of whole windows side by side, and of sums of one pixel with constant weights."""
    kernel, size = ints(op.kernel), shape_of(op.x)[2:]
    whole = [n // k for n, k in zip(size, kernel, strict=True)] == list(shape_of(op.result)[2:])
    windows = ints(op.strides) == kernel and not any(ints(op.pads)) and all(n == 1 for n in ints(op.dilations))
    dtypes = {spec_of(value)[0] for value in (conv.x, conv.w, conv.result)}
    plain = len(dtypes) == 1 and next(iter(dtypes)).is_float and op.x.has_one_use() and is_known(conv.w)
    return (
        op.kind.data is PoolKind.AVERAGE
        and whole
        and windows
        and conv.is_pointwise
        and plain
        and 1 < prod(kernel) <= MOST_TAPS
    )


def _pays(op: PoolOp, conv: ConvOp, target: Target) -> bool:
    """Whether the evictions and sums that are saved take longer than loading the weights of the other taps.

    Products must be long enough, as they are for each tap now.
    """
    images, outputs, *size = shape_of(op.x)
    taps, made = prod(ints(op.kernel)), shape_of(op.result)
    if images * prod(made[2:]) < int(target.min_issue_cycles):
        return False
    swept = ceil(outputs / LANES) * images * prod(size) * (2.0 - 1.0 / taps) / target.clock_ghz("dve")
    dtype, weights = spec_of(conv.w)
    rate = min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns))
    return (taps - 1) * prod(weights) * dtype.size_bytes / rate <= swept
