"""Turns behind the products that feed them: one loop, one iteration behind, with the same numbers."""

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from passes.tile.fuse_loops import TileFuseLoopsPass
from tests.program_texts import assert_same_numbers, loops_of, parse, trips_of

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


def program(times: int, tiles: int) -> ModuleOp:
    """`times` products for each of `tiles` tiles."""
    return parse(TEXT, {"TIMES": times, "TILES": tiles, "COLUMNS": 128 * tiles})


def names(op: Operation) -> list[str]:
    return [inner.name for inner in op.walk() if inner.name in ("tile.matmul", "tile.transpose")]


# 100 products of 128 columns take the tensor engine 4.6 us: tile i is turned after the products of tile i + 1. 30 take
# 1.4 us: after those of tile i + 3; the first products and the last turns are loops of three.
@pytest.mark.parametrize(("times", "tiles", "trips"), [(100, 4, [100, 3]), (30, 7, [3, 4, 3])])
def test_long_products_are_followed_by_the_turn_of_a_tile_before(times: int, tiles: int, trips: list[int]) -> None:
    x = np.random.default_rng(0).standard_normal((tiles, 128, 128)).astype(ml_dtypes.bfloat16)
    module = program(times, tiles)
    assert_same_numbers(module, TileFuseLoopsPass(), [x])
    assert trips_of(module) == trips
    assert names(loops_of(module)[1]) == ["tile.matmul", "tile.transpose"]
    assert names(module)[-1] == "tile.transpose"


# Ten take 0.5 us: the tensor engine would wait for the function of the tile before, and the loops stay apart; so do
# loops that would have few iterations left.
@pytest.mark.parametrize(("times", "tiles"), [(10, 4), (30, 4)])
def test_short_products_are_not(times: int, tiles: int) -> None:
    module = program(times, tiles)
    TileFuseLoopsPass().apply(Context(), module)
    assert trips_of(module) == [tiles, tiles]
