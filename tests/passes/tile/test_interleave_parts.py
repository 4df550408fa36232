"""Loops behind one that gathers, part by part: the numbers stay what they are, in less memory."""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16
from xdsl.dialects.builtin import MemRefType, ModuleOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import SSAValue
from xdsl.utils.hints import isa

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.tile import AllocOp, TileOp
from passes.tile import interleave_parts
from passes.tile.interleave_parts import TileInterleavePartsPass
from passes.tile.part_buffers import Window, window_of
from tests.program_texts import Array, assert_same_numbers, function_of, loops_of, parse, trips_of

# Rows of a table are turned, and multiplied twice: eight tiles, then four of twice as many rows, then eight. READ is
# what the last loop reads of the first products, a tile of 128 rows or more. BETWEEN the loads of indices and what is
# made of them may stand something else.
TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %t: memref<100x128xbf16, #neuron.space<dram>>, %i: memref<1024xi32, #neuron.space<dram>>,
    %w: memref<128x128xbf16, #neuron.space<dram>>, %y: memref<1024x128xf32, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 3 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c8 = arith.constant 8 : index
    %listed = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
    tile.load dst %listed[0:128][0 : 8] src %i[0 : 128, 8 step 128]
    BETWEEN
    %columns = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
    tile.copy dst %columns[0:128][0 : 8] data %listed[0:128][0 : 8]
    %identity = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
    %x = tile.alloc : memref<128x1024xbf16, #neuron.space<sbuf>>
    scf.for %a = %c0 to %c8 step %c1 {
      %rows = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<sbuf>>
      tile.gather dst %rows[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][%a : 1] {ROWS}
      %turned = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<psum>>
      tile.transpose dst %turned[0:128][0 : 128] data %rows[0:128][0 : 128]
      tile.copy dst %x[0:128][128*%a : 128] data %turned[0:128][0 : 128]
    }
    %weights = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
    tile.load dst %weights[0:128][0 : 128] src %w[0 : 128 step 128, 128]
    %h = tile.alloc : memref<128x2x1024xbf16, #neuron.space<sbuf>>
    scf.for %b = %c0 to %c4 step %c1 {
      %p = tile.alloc copies 2 : memref<128x256xf32, #neuron.space<psum>>
      tile.matmul dst %p[0:128][0 : 256] stationary %weights[0:128][0 : 128] moving %x[0:128][256*%b : 256]
      tile.copy dst %h[0:128][256*%b : 256] data %p[0:128][0 : 256]
      tile.tensor_scalar dst %h[0:128][256*%b + 1024 : 256] data %p[0:128][0 : 256] {op0 = multiply, scalar0 = 2.0}
    }
    scf.for %d = %c0 to %c8 step %c1 {
      %q = tile.alloc copies 2 : memref<128x128xf32, #neuron.space<psum>>
      scf.for %e = %c0 to %c1 step %c1 {
        tile.matmul dst %q[0:128][0 : 128] stationary %h[0:128][READ : 128] moving %weights[0:128][0 : 128]
      }
      %out = tile.alloc copies 2 : memref<128x128xf32, #neuron.space<sbuf>>
      tile.copy dst %out[0:128][0 : 128] data %q[0:128][0 : 128]
      tile.store dst %y[16384*%d : 128 step 128, 128] src %out[0:128][0 : 128]
    }
    func.return
  }
}
"""


OTHER = """
    %others = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
    tile.load dst %others[0:128][0 : 8] src %i[0 : 128, 8 step 128]
"""


def program(read: str, between: str = "") -> ModuleOp:
    """The function whose last loop reads as told, with such statements between the first ones."""
    return parse(TEXT, {"READ": read, "BETWEEN": between, "ROWS": "rows = 100, row_stride = 128"})


def given() -> list[Array]:
    """A table, the rows that are asked for, and weights."""
    rng = np.random.default_rng(0)
    table, weights = (rng.standard_normal(shape).astype(bfloat16) for shape in ((100, 128), (128, 128)))
    return [table, rng.integers(0, 100, 1024).astype(np.int32), weights]


def own_elements(module: ModuleOp) -> list[int]:
    """Elements of a partition of each buffer of the function that holds more than a tile."""
    found: list[int] = []
    for op in function_of(module).body.block.ops:
        if isinstance(op, AllocOp):
            assert isa(op.buffer.type, MemRefType)
            found.append(int(np.prod(op.buffer.type.get_shape()[1:])))
    return [size for size in found if size > 256]


# Trips of what is a loop after all; the products between the two layers take a quarter of the memory, and what they
# read takes two, where each part reads its own alone. Where the last loop reads tiles from behind, nothing can be done.
@pytest.mark.parametrize(
    ("read", "trips", "elements"),
    [
        ("128*%d + 128*%e + 1024", [1] * 8, [512]),
        ("896", [8, 4, 8], [1024, 2048]),
    ],
)
def test_parts(read: str, trips: list[int], elements: list[int]) -> None:
    module = program(read)
    assert_same_numbers(module, TileInterleavePartsPass(), given())
    assert trips_of(module) == trips
    assert own_elements(module) == elements


# A loop of many iterations is not written out: its parts are loops, as are those behind it.
def test_parts_of_long_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave_parts, "MOST_TRIPS", 7)
    module = program("128*%d + 128*%e + 1024")
    assert_same_numbers(module, TileInterleavePartsPass(), given())
    assert trips_of(module) == [2, 2, 2, 2, 2, 2, 2, 2]
    assert own_elements(module) == [512]


# What the first loop needs stays in order, at the front; what it does not need comes behind that.
@pytest.mark.parametrize(("between", "front"), [("", ["load", "copy"]), (OTHER, ["load", "copy", "load"])])
def test_what_rows_are_asked_for_by_comes_first(between: str, front: list[str]) -> None:
    module = program("128*%d + 1024", between)
    assert_same_numbers(module, TileInterleavePartsPass(), given())
    ops = function_of(module).body.block.ops
    statements = [op.name.partition(".")[2] for op in ops if isinstance(op, TileOp | ForOp)]
    assert statements[: len(front) + 1] == [*front, "gather"]


def loops_and_buffers(read: str) -> tuple[list[ForOp], dict[str | None, SSAValue]]:
    """The loops of the function, and its buffers by name."""
    module = program(read)
    ops = function_of(module).body.block.ops
    return loops_of(module), {op.buffer.name_hint: op.buffer for op in ops if isinstance(op, AllocOp)}


def test_windows() -> None:
    (first, second, third), buffers = loops_and_buffers("128*%d + 1024")
    assert window_of(buffers["h"], [second, third], 4) == Window(1024, 256)
    assert window_of(buffers["x"], [first, second], 8) == Window(1024, 128)
    # Reads of no row of their own, and rows that an iteration shares with the next one.
    for read in ("896", "128*%d + 4"):
        (_, second, third), buffers = loops_and_buffers(read)
        assert window_of(buffers["h"], [second, third], 4) is None


# Elements of the second of two rows of tiles, in a buffer of a quarter of the rows.
def test_views_of_a_window() -> None:
    view = AccessPattern(Affine(), 128, Affine.of(1024 + 520, [(0, 1024), (1, 64)]), ((1024, 2), (1, 64)))
    small = AccessPattern(Affine(), 128, Affine.of(256 + 8, [(0, 256), (1, 64)]), ((256, 2), (1, 64)))
    assert Window(1024, 256).pattern(view, 512) == small
