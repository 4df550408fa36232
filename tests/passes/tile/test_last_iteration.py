"""A loop of one iteration more than the one before it: all but its last become part of that."""

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from passes.tile.fuse_loops import TileFuseLoopsPass
from tests.program_texts import assert_same_numbers, parse, trips_of

# Tiles that are doubled, the last one behind the loop, and their sums of all tiles in another loop.
TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %x: memref<128xCOLUMNSxf32, #neuron.space<dram>>, %y: memref<128xTILESxf32, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %before = arith.constant BEFORE : index
    %tiles = arith.constant TILES : index
    %in = tile.alloc : memref<128xCOLUMNSxf32, #neuron.space<sbuf>>
    tile.load dst %in[0:128][0 : COLUMNS] src %x[0 : 128 step COLUMNS, COLUMNS]
    %twice = tile.alloc : memref<128xCOLUMNSxf32, #neuron.space<sbuf>>
    scf.for %i = %c0 to %before step %c1 {
      tile.tensor_scalar dst %twice[0:128][16*%i : 16] data %in[0:128][16*%i : 16] {op0 = multiply, scalar0 = 2.0}
    }
    tile.tensor_scalar dst %twice[0:128][LAST : 16] data %in[0:128][LAST : 16] {op0 = multiply, scalar0 = 2.0}
    %sums = tile.alloc : memref<128xTILESxf32, #neuron.space<sbuf>>
    scf.for %j = %c0 to %tiles step %c1 {
      tile.reduce dst %sums[0:128][1*%j : 1] data %twice[0:128][16*%j : 16] {op = add, axes = 1}
    }
    tile.store dst %y[0 : 128 step TILES, TILES] src %sums[0:128][0 : TILES]
    func.return
  }
}
"""


def program(tiles: int) -> ModuleOp:
    """The module for so many tiles."""
    return parse(TEXT, {"COLUMNS": 16 * tiles, "BEFORE": tiles - 1, "LAST": 16 * (tiles - 1), "TILES": tiles})


@pytest.mark.parametrize(("tiles", "loops"), [(5, [4]), (3, [2])])
def test_the_last_iteration_stays_behind(tiles: int, loops: list[int]) -> None:
    x = np.random.default_rng(0).standard_normal((128, 16 * tiles)).astype(np.float32)
    module = program(tiles)
    (made,) = assert_same_numbers(module, TileFuseLoopsPass(), [x])
    assert trips_of(module) == loops
    assert np.allclose(made, 2 * x.reshape(128, tiles, 16).sum(2), atol=1e-4)


# Six tiles are turned, seven multiplied, and the newest product is what is left.
TURNED = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %x: memref<32x224xf32, #neuron.space<dram>>, %y: memref<32x32xf32, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c6 = arith.constant 6 : index
    %c7 = arith.constant 7 : index
    %in = tile.alloc : memref<32x224xf32, #neuron.space<sbuf>>
    tile.load dst %in[0:32][0 : 224] src %x[0 : 32 step 224, 224]
    %turned = tile.alloc : memref<32x224xf32, #neuron.space<sbuf>>
    tile.load dst %turned[0:32][0 : 224] src %x[0 : 32 step 224, 224]
    scf.for %i = %c0 to %c6 step %c1 {
      %t = tile.alloc copies 2 : memref<32x32xf32, #neuron.space<psum>>
      tile.transpose dst %t[0:32][0 : 32] data %in[0:32][32*%i : 32]
      tile.copy dst %turned[0:32][32*%i : 32] data %t[0:32][0 : 32]
    }
    %newest = tile.alloc : memref<32x32xf32, #neuron.space<sbuf>>
    scf.for %j = %c0 to %c7 step %c1 {
      %p = tile.alloc copies 2 : memref<32x32xf32, #neuron.space<psum>>
      tile.matmul dst %p[0:32][0 : 32] stationary %in[0:32][0 : 32] moving %turned[0:32][32*%j : 32]
      tile.copy dst %newest[0:32][0 : 32] data %p[0:32][0 : 32]
    }
    tile.store dst %y[0 : 32 step 32, 32] src %newest[0:32][0 : 32]
    func.return
  }
}
"""


# The others follow the turning an iteration behind: what is left of them comes before the last iteration.
def test_the_last_iteration_stays_behind_those_that_follow_later() -> None:
    x = np.random.default_rng(0).standard_normal((32, 224)).astype(np.float32)
    module = parse(TURNED, {})
    assert_same_numbers(module, TileFuseLoopsPass(), [x])
    assert trips_of(module) == [5]
