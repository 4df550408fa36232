"""Masks that the tensor engine adds to scores, in both orders in which attention with keys on partitions makes them.

    scores[q, key] += 1[q', q]^T . mask[q', key]      1 an identity matrix; a row of ones where all queries see the same
    turned[key, q] += mask[q', key]^T . 1[q', q]

The same tile is stationary in one and moving in the other, so that a mask is never turned. It is added before the
maxima are taken, and costs neither act nor dve a pass over the scores.
"""

from functools import cached_property
from math import prod

from lowering.graph_to_tile.attention_plan import HeadGroup
from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_weights import identity_ops
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pipelining import Ring
from lowering.graph_to_tile.tensors import DramTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import ClipOp
from neuron_dialects.graph.attention import HIDDEN

HEADS, QUERIES, KEYS = 1, 2, 3
"""Dimensions of a mask."""


class AddedMask:
    """One mask [batch, heads, queries, keys] of bf16; stride 0 where it is the same along a dimension."""

    def __init__(self, k: Kernel, mask: DramTensor, rows: int, group: int, copies: int):
        """At most `rows` queries and `group` heads at a time; units take `copies` tiles in turn, by their numbers."""
        self.k, self.b, self.mask = k, k.b, mask
        self.rows = 1 if mask.strides[QUERIES] == 0 else rows
        self.by_head = mask.strides[HEADS] != 0
        self.group = group if self.by_head else 1
        shape = (self.rows, self.group * mask.shape[KEYS])
        self.ring = Ring(lambda: self.b.alloc_outer(shape, "bf16", "sbuf", "mask").view(), copies)

    @cached_property
    def _hot(self) -> View:
        """[queries, queries]: the identity; or a row of ones."""
        hot = self.b.alloc_outer((self.rows, max(self.rows, self._lanes)), "bf16", "sbuf", "hot").view()
        if self.rows == 1:
            self.b.memset(hot, 1.0)
        else:
            made = self.k.derive(f"identity.{self.rows}.bf16", [], lambda _: identity_ops(BF16, self.rows))
            self.b.load(hot, made.view())
        return hot

    @property
    def _lanes(self) -> int:
        return min(self.mask.shape[QUERIES], int(self.k.target.partitions))

    def prepare(self) -> None:
        """What all units share."""
        _ = self._hot

    def _tile(self, unit: HeadGroup, number: int) -> View:
        """[queries, heads, keys] of a unit, one of what is the same for all."""
        rows, group = min(self.rows, unit.tile.rows), min(self.group, unit.group)
        return self.ring.take((rows, group, self.mask.shape[KEYS]), number)

    def load(self, batch: Affine, unit: HeadGroup, number: int) -> None:
        """Bring the mask of a unit on chip."""
        tile = self._tile(unit, number)
        head = unit.head if self.by_head else Affine(0)
        part = {0: (batch, 1), HEADS: (head, tile.shape[1]), QUERIES: (unit.tile.start, tile.partitions)}
        transfer(self.b, self.b.load, tile, self.mask.view(part, [QUERIES, HEADS, KEYS]))

    def bound(self, unit: HeadGroup, number: int) -> None:
        """Raise the minus infinity of a unit's mask."""
        bound(self.b, self._tile(unit, number))

    def add(self, scores: View, unit: HeadGroup, number: int) -> None:
        """scores [queries, heads, keys] += the mask of a unit."""
        tile = self._tile(unit, number)
        hot = self._hot.slice(0, 0, tile.partitions).slice(1, 0, scores.partitions)
        self.b.matmul(scores, hot, tile.broadcast(scores.shape[1:]), 1)

    def add_turned(self, scores: View, unit: HeadGroup, number: int, head: int, start: Affine) -> None:
        """scores [keys, queries] += the mask of head `head` of a unit, for the keys from `start` on."""
        tile = self._tile(unit, number).at(1, head if self.by_head else 0).slice(1, start, scores.partitions)
        hot = self._hot.slice(0, 0, tile.partitions).slice(1, 0, prod(scores.shape[1:]))
        self.b.matmul(scores, tile, hot, 1)


def bound(b: KernelBuilder, tile: View) -> None:
    """Raise minus infinity, which products with zeros of the identity do not stand, to what hides a key as well."""
    b.tensor_scalar(tile.flat(), tile.flat(), "maximum", HIDDEN)


def bounded_parameter(k: Kernel, mask: DramTensor) -> DramTensor | None:
    """A mask that `bound` would not change, made from one that is a parameter; None where it is not."""
    symbol = mask.symbol
    if symbol is None or not k.is_parameter(mask):
        return None
    return k.derive(f"{symbol}.bounded", [symbol], lambda values: [ClipOp(values[0], minimum=HIDDEN)])
