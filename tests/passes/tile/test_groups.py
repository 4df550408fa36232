"""A loop of short products becomes one of groups of them where a loop of fewer iterations sweeps over a group."""

import numpy as np
import pytest

from passes.tile.fuse_loops import TileFuseLoopsPass
from tests.program_texts import assert_same_numbers, parse, trips_of

# 12 products of 16 rows each, then sums over three of them at a time; READ is where a sum begins to read.
TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %x: memref<16x192xf32, #neuron.space<dram>>, %y: memref<16x12xf32, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c12 = arith.constant 12 : index
    %in = tile.alloc : memref<16x192xbf16, #neuron.space<sbuf>>
    tile.load dst %in[0:16][0 : 192] src %x[0 : 16 step 192, 192]
    %made = tile.alloc : memref<16x192xf32, #neuron.space<sbuf>>
    tile.memset dst %made[0:16][0 : 192] {value = 1.0}
    scf.for %i = %c0 to %c12 step %c1 {
      %sum = tile.alloc copies 2 : memref<16x16xf32, #neuron.space<psum>>
      tile.matmul dst %sum[0:16][0 : 16] stationary %in[0:16][16*%i : 16] moving %in[0:16][0 : 16]
      tile.copy dst %made[0:16][16*%i : 16] data %sum[0:16][0 : 16]
    }
    %sums = tile.alloc : memref<16x12xf32, #neuron.space<sbuf>>
    scf.for %j = %c0 to %c4 step %c1 {
      tile.reduce dst %sums[0:16][3*%j : 3] data %made[0:16][READ : 3 step 16, 16] {op = add, axes = 1}
    }
    tile.store dst %y[0 : 16 step 12, 12] src %sums[0:16][0 : 12]
    func.return
  }
}
"""


# What a sum reads is made in its own group: the loops are one. Not if a later group makes it.
@pytest.mark.parametrize(("read", "loops"), [("48*%j", [4]), ("-48*%j + 144", [12, 4])])
def test_groups_of_products_stand_beside_what_sweeps_over_them(read: str, loops: list[int]) -> None:
    x = np.random.default_rng(0).standard_normal((16, 192)).astype(np.float32)
    module = parse(TEXT, {"READ": read})
    assert_same_numbers(module, TileFuseLoopsPass(), [x])
    assert trips_of(module) == loops
