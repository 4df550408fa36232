"""Turns behind the products that feed them: one loop, one iteration behind, with the same numbers."""

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin
from xdsl.dialects.func import Func, FuncOp
from xdsl.dialects.scf import ForOp, Scf
from xdsl.ir import Operation
from xdsl.parser import Parser

from neuron_dialects.loops import trip_count
from neuron_dialects.neuron import Neuron
from neuron_dialects.tile import Tile
from passes.tile.fuse_loops import TileFuseLoopsPass
from runtime.program_interpreter import run_function

# Some tiles of rows: products, a function of them, and the same rows with columns on partitions.
TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %x: memref<TILESx128x128xbf16, #neuron.space<dram>>, %y: memref<128xCOLUMNSxbf16, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %tiles = arith.constant TILES : index
    %times = arith.constant TIMES : index
    %rows = tile.alloc : memref<128xTILESx128xbf16, #neuron.space<sbuf>>
    scf.for %i = %c0 to %tiles step %c1 {
      %a = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<sbuf>>
      tile.load dst %a[0:128][0 : 128] src %x[16384*%i : 128 step 128, 128]
      %p = tile.alloc copies 2 : memref<128x128xf32, #neuron.space<psum>>
      scf.for %k = %c0 to %times step %c1 {
        tile.matmul dst %p[0:128][0 : 128] stationary %a[0:128][0 : 128] moving %a[0:128][0 : 128] {accumulate = %k}
      }
      tile.activation dst %rows[0:128][128*%i : 128] data %p[0:128][0 : 128] {func = tanh, scale = 0.001}
    }
    %turned = tile.alloc : memref<128xCOLUMNSxbf16, #neuron.space<sbuf>>
    scf.for %j = %c0 to %tiles step %c1 {
      %t = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<psum>>
      tile.transpose dst %t[0:128][0 : 128] data %rows[0:128][128*%j : 128]
      tile.copy dst %turned[0:128][128*%j : 128] data %t[0:128][0 : 128]
    }
    tile.store dst %y[0 : 128 step COLUMNS, COLUMNS] src %turned[0:128][0 : COLUMNS]
    func.return
  }
}
"""


def program(times: int, tiles: int) -> FuncOp:
    """`times` products for each of `tiles` tiles."""
    text = TEXT.replace("TIMES", str(times)).replace("TILES", str(tiles)).replace("COLUMNS", str(128 * tiles))
    context = Context()
    for dialect in (Arith, Builtin, Func, Neuron, Scf, Tile):
        context.load_dialect(dialect)
    module = Parser(context, text).parse_module()
    module.verify()
    (function,) = module.ops
    assert isinstance(function, FuncOp)
    return function


def fused(function: FuncOp) -> list[ForOp]:
    """The loops of the function's body after the pass."""
    module = function.parent_op()
    assert module is not None
    TileFuseLoopsPass().apply(Context(), module)  # pyright: ignore[reportArgumentType]
    module.verify()
    return [op for op in function.body.block.ops if isinstance(op, ForOp)]


def names(op: Operation) -> list[str]:
    return [inner.name for inner in op.walk() if inner.name in ("tile.matmul", "tile.transpose")]


# 100 products of 128 columns take the tensor engine 4.6 us: tile i is turned after the products of tile i + 1. 30 take
# 1.4 us: after those of tile i + 3; the first products and the last turns are loops of three.
@pytest.mark.parametrize(("times", "tiles", "trips"), [(100, 4, [100, 3]), (30, 7, [3, 4, 3])])
def test_long_products_are_followed_by_the_turn_of_a_tile_before(times: int, tiles: int, trips: list[int]) -> None:
    x = np.random.default_rng(0).standard_normal((tiles, 128, 128)).astype(ml_dtypes.bfloat16)
    expected = run_function(program(times, tiles), [x], lambda *_: x)
    function = program(times, tiles)
    loops = fused(function)
    assert [trip_count(loop) for loop in loops] == trips
    assert names(loops[1]) == ["tile.matmul", "tile.transpose"]
    assert names(function)[-1] == "tile.transpose"
    for a, b in zip(run_function(function, [x], lambda *_: x), expected, strict=True):
        np.testing.assert_array_equal(a, b)


# Ten take 0.5 us: the tensor engine would wait for the function of the tile before, and the loops stay apart; so do
# loops that would have few iterations left.
@pytest.mark.parametrize(("times", "tiles"), [(10, 4), (30, 4)])
def test_short_products_are_not(times: int, tiles: int) -> None:
    assert [trip_count(loop) for loop in fused(program(times, tiles))] == [tiles, tiles]
