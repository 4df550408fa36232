"""A loop becomes a part of the products that it belongs to, past products of as many iterations with other operands."""

import numpy as np
import pytest

from passes.tile.fuse_loops import TileFuseLoopsPass
from tests.program_texts import assert_same_numbers, parse, trips_of

# Products, other work of as many iterations, and sums of the products.
TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %x: memref<16x192xf32, #neuron.space<dram>>, %y: memref<16x12xf32, #neuron.space<dram>>,
    %z: memref<16x192xf32, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c12 = arith.constant 12 : index
    %in = tile.alloc : memref<16x192xbf16, #neuron.space<sbuf>>
    tile.load dst %in[0:16][0 : 192] src %x[0 : 16 step 192, 192]
    %made = tile.alloc : memref<16x192xf32, #neuron.space<sbuf>>
    scf.for %i = %c0 to %c12 step %c1 {
      %sum = tile.alloc copies 2 : memref<16x16xf32, #neuron.space<psum>>
      tile.matmul dst %sum[0:16][0 : 16] stationary %in[0:16][16*%i : 16] moving %in[0:16][0 : 16]
      tile.copy dst %made[0:16][16*%i : 16] data %sum[0:16][0 : 16]
    }
    %others = tile.alloc : memref<16x192xf32, #neuron.space<sbuf>>
    scf.for %k = %c0 to %c12 step %c1 {
      OTHER
    }
    %sums = tile.alloc : memref<16x12xf32, #neuron.space<sbuf>>
    scf.for %j = %c0 to %c12 step %c1 {
      tile.reduce dst %sums[0:16][%j : 1] data %made[0:16][16*%j : 16] {op = add, axes = 1}
    }
    tile.store dst %z[0 : 16 step 192, 192] src %others[0:16][0 : 192]
    tile.store dst %y[0 : 16 step 12, 12] src %sums[0:16][0 : 12]
    func.return
  }
}
"""

PRODUCTS = """%other = tile.alloc copies 2 : memref<16x16xf32, #neuron.space<psum>>
      tile.matmul dst %other[0:16][0 : 16] stationary %in[0:16][0 : 16] moving %in[0:16][16*%k : 16]
      tile.copy dst %others[0:16][16*%k : 16] data %other[0:16][0 : 16]"""

COPIES = "tile.copy dst %others[0:16][16*%k : 16] data %in[0:16][16*%k : 16]"


# Copies would keep the engines busy that take the sums.
@pytest.mark.parametrize(("other", "loops"), [(PRODUCTS, 2), (COPIES, 3)])
def test_sums_stand_beside_their_products(other: str, loops: int) -> None:
    x = np.random.default_rng(0).standard_normal((16, 192)).astype(np.float32)
    module = parse(TEXT, {"OTHER": other})
    assert_same_numbers(module, TileFuseLoopsPass(), [x])
    assert trips_of(module) == [12] * loops
