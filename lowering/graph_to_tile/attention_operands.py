"""Operands of attention on chip: queries and keys with features on partitions, values with positions there.

What lies so already is used in place. Whatever else is loaded, or turned by the tensor engine, one sequence at a time.
"""

from collections.abc import Callable
from math import ceil

import numpy as np
from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.k_major import KMajor
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.relayout import copy_window
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from lowering.graph_to_tile.turning import Bank, blocks_per_bank, turn_blocks, turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import F32, dtype_by_name
from neuron_dialects.graph import AttentionOp, CompareKind, CompareOp, ConstantOp, SelectOp, spec_of
from neuron_dialects.graph.attention import HIDDEN, packs_heads

FEATURES = 2
"""Dimension of q, k, v and the result that holds the packed heads."""


class Operands:
    """Views of the operands of one attention; `banks` gives, by element type, where turned blocks pass through."""

    def __init__(self, k: Kernel, op: AttentionOp, banks: Callable[[str], Bank]):
        self.k, self.size, self.columns, self.banks = k, op.head_size, int(k.target.pe_columns), banks

    def in_place(self, value: SSAValue) -> bool:
        """Whether the value lies on chip with features on partitions."""
        tensor = self.k.tensor(value)
        return isinstance(tensor, SbufTensor) and tensor.partition == FEATURES

    def features(self, value: SSAValue, batch: Affine, name: str) -> View:
        """[128, tiles, positions] of one sequence."""
        tensor = self.k.tensor(value)
        if isinstance(tensor, SbufTensor) and self.in_place(value):
            return tensor.whole.at(2, batch)
        length, elements = tensor.shape[1], tensor.shape[FEATURES]
        size = LANES if packs_heads(self.size) else self.size
        panel = self.k.b.alloc(
            (min(size, elements), ceil(elements / size), length), tensor.dtype, "sbuf", self.k.b.rotation, name
        ).view()
        source = KMajor(self.k, tensor, 1, FEATURES)

        def rows(start: Affine, count: int) -> None:
            part, at = panel.slice(2, start, count), {0: (batch, 1), 1: (start, count)}
            if size == LANES and source.is_direct:
                source.load(part, at)
                return
            staged = source.staged(at)
            bank = self.banks(staged.dtype)
            if size == LANES:
                turn_rows(self.k, part, staged, parts=2, bank=bank)
                return
            group = min(blocks_per_bank(self.k, staged), elements // size)

            def heads(first: Affine, number: int) -> None:
                turn_blocks(self.k, part, staged, first, number, size, size, bank)

            self.k.b.tiles(elements // size, group, heads)

        self.k.b.tiles(length, LANES, rows)
        return panel

    def panel(self, value: SSAValue) -> View | None:
        """A panel [128, key tiles, features] for the values of any sequence; None where they lie on chip so."""
        tensor = self.k.tensor(value)
        if isinstance(tensor, SbufTensor) and tensor.partition == 1:
            return None
        return self.k.b.alloc_outer(self._panel_shape(tensor.shape), tensor.dtype, "sbuf", "v").view()

    @staticmethod
    def _panel_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
        _, keys, elements = shape
        return min(LANES, keys), ceil(keys / LANES), elements

    def positions(self, value: SSAValue, batch: Affine, panel: View | None = None) -> View:
        """[128, key tiles, features] of one sequence, in `panel` if that is given."""
        tensor = self.k.tensor(value)
        keys = tensor.shape[1]
        if isinstance(tensor, SbufTensor) and tensor.partition == 1:
            return tensor.whole.at(2, batch)
        if panel is None:
            shape = self._panel_shape(tensor.shape)
            panel = self.k.b.alloc(shape, tensor.dtype, "sbuf", self.k.b.rotation, "v").view()

        def rows(start: Affine, count: int) -> None:
            place = panel.slice(0, 0, count).at(1, start.divided(LANES))
            if isinstance(tensor, DramTensor):
                self.k.b.load(place, tensor.view({0: (batch, 1), 1: (start, count)}, [1, FEATURES]))
            else:
                self._turn_values(place, tensor.whole.at(2, batch), start, count)

        self.k.b.tiles(keys, LANES, rows)
        return panel

    def _turn_values(self, place: View, features: View, start: Affine, count: int) -> None:
        """`place` [count, features] from values with features on partitions [128, tiles, positions]."""
        full, rest = divmod(place.free_elements, LANES)
        per_bank = max(1, int(self.k.target.psum_bank_bytes) // dtype_by_name(place.dtype).size_bytes // LANES)

        def blocks(first: Affine, tiles: int, size: int) -> None:
            for low in range(0, count, self.columns):
                width = min(self.columns, count - low)
                turned = self.banks(features.dtype)((width, tiles, size))
                with self.k.b.loop(tiles) as j:
                    block = features.slice(0, 0, size).at(1, first + j).slice(1, start + low, width)
                    self.k.b.transpose(turned.at(1, j), block)
                target = place.slice(0, low, width).slice(1, first * LANES, tiles * size)
                self.k.b.copy(target, turned)

        if full:
            self.k.b.tiles(full, per_bank, lambda first, tiles: blocks(first, tiles, LANES))
        if rest:
            blocks(Affine(full), 1, rest)


def repeated_mask(k: Kernel, op: AttentionOp) -> DramTensor:
    """The mask in DRAM; one that repeats after some sequences of the batch, written out for all of them."""
    assert op.mask is not None
    window, sequences, period = k.dram(op.mask), spec_of(op.q)[1][0], op.mask_period
    if period in (1, sequences):
        return window
    shape = (sequences // period, *window.shape)
    dense = DramTensor.dense(k.b.alloc_outer(shape, window.dtype, "dram"), shape)
    apart = window.reshape((1, *window.shape))
    assert apart is not None
    copy_window(k, apart.broadcast(shape), dense)
    whole = dense.reshape((sequences, *window.shape[1:]))
    assert whole is not None
    return whole


def load_triangle(k: Kernel) -> View:
    """[128, 128] on chip: 0 up to the diagonal, HIDDEN above it."""
    source = k.derive("attention.triangle", [], lambda _: _triangle())
    tile = k.b.alloc_outer((LANES, LANES), "f32", "sbuf", "triangle").view()
    k.b.load(tile, source.view())
    return tile


def _triangle() -> list[Operation]:
    """Recipe of [128, 128] f32: 0 up to the diagonal, HIDDEN above it."""
    indices = np.arange(LANES, dtype=np.float32)
    rows = ConstantOp(indices[:, None], F32, (LANES, 1))
    columns = ConstantOp(indices[None, :], F32, (1, LANES))
    seen = CompareOp(CompareKind.GE, rows.result, columns.result)
    zero, hidden = ConstantOp(0.0, F32, ()), ConstantOp(HIDDEN, F32, ())
    return [rows, columns, seen, zero, hidden, SelectOp(seen.result, zero.result, hidden.result)]


def same_head(heads: int, parts: int) -> list[Operation]:
    """Recipe of [parts * heads, heads] f32: 1 where row and column are of one head."""
    numbers = np.arange(heads, dtype=np.float32)
    rows = ConstantOp(np.tile(numbers, parts)[:, None], F32, (parts * heads, 1))
    columns = ConstantOp(numbers[None, :], F32, (1, heads))
    same = CompareOp(CompareKind.EQ, rows.result, columns.result)
    one, zero = ConstantOp(1.0, F32, ()), ConstantOp(0.0, F32, ())
    return [rows, columns, same, one, zero, SelectOp(same.result, one.result, zero.result)]
