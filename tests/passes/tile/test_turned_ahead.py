"""Tiles that short products multiply are turned one iteration ahead of them, with the same numbers."""

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.loops import trip_count
from passes.tile.fuse_loops import TileFuseLoopsPass
from tests.program_texts import assert_same_numbers, loops_of, parse

# Tiles of 32 rows are turned, then each turned tile is multiplied TIMES times.
TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %x: memref<32xCOLUMNSxbf16, #neuron.space<dram>>, %y: memref<32xCOLUMNSxf32, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %tiles = arith.constant TILES : index
    %times = arith.constant TIMES : index
    %rows = tile.alloc : memref<32xCOLUMNSxbf16, #neuron.space<sbuf>>
    tile.load dst %rows[0:32][0 : COLUMNS] src %x[0 : 32 step COLUMNS, COLUMNS]
    %t = tile.alloc : memref<32xCOLUMNSxbf16, #neuron.space<sbuf>>
    scf.for %j = %c0 to %tiles step %c1 {
      %b = tile.alloc copies 2 : memref<32x32xbf16, #neuron.space<psum>>
      tile.transpose dst %b[0:32][0 : 32] data %rows[0:32][32*%j : 32]
      tile.copy dst %t[0:32][32*%j : 32] data %b[0:32][0 : 32]
    }
    %made = tile.alloc : memref<32xCOLUMNSxf32, #neuron.space<sbuf>>
    scf.for %i = %c0 to %tiles step %c1 {
      %p = tile.alloc copies 2 : memref<32x32xf32, #neuron.space<psum>>
      scf.for %k = %c0 to %times step %c1 {
        tile.matmul dst %p[0:32][0 : 32] stationary %t[0:32][32*%i : 32] moving %rows[0:32][0 : 32] {accumulate = %k}
      }
      tile.copy dst %made[0:32][32*%i : 32] data %p[0:32][0 : 32]
    }
    tile.store dst %y[0 : 32 step COLUMNS, COLUMNS] src %made[0:32][0 : COLUMNS]
    func.return
  }
}
"""


def program(tiles: int, times: int) -> ModuleOp:
    return parse(TEXT, {"TIMES": times, "TILES": tiles, "COLUMNS": 32 * tiles})


# One turn stands before the loop, one product behind it. Long products need no tile ahead; two trips make no loop.
@pytest.mark.parametrize(("tiles", "times", "trips"), [(5, 2, 4), (3, 2, 2), (2, 2, 2), (5, 300, 5)])
def test_turns_are_ahead_of_short_products(tiles: int, times: int, trips: int) -> None:
    x = np.random.default_rng(0).standard_normal((32, 32 * tiles)).astype(ml_dtypes.bfloat16)
    module = program(tiles, times)
    assert_same_numbers(module, TileFuseLoopsPass(), [x])
    (both,) = (
        op for op in loops_of(module) if {"tile.transpose", "tile.matmul"} <= {inner.name for inner in op.walk()}
    )
    assert trip_count(both) == trips
