"""Tiles that short products multiply are turned one iteration ahead of them, with the same numbers."""

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func, FuncOp
from xdsl.dialects.scf import ForOp, Scf
from xdsl.parser import Parser

from neuron_dialects.loops import trip_count
from neuron_dialects.neuron import Neuron
from neuron_dialects.tile import Tile
from passes.tile.fuse_loops import TileFuseLoopsPass
from runtime.program_interpreter import run_function

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


def program(tiles: int, times: int) -> tuple[ModuleOp, FuncOp]:
    text = TEXT.replace("TIMES", str(times)).replace("TILES", str(tiles)).replace("COLUMNS", str(32 * tiles))
    context = Context()
    for dialect in (Arith, Builtin, Func, Neuron, Scf, Tile):
        context.load_dialect(dialect)
    module = Parser(context, text).parse_module()
    module.verify()
    (function,) = (op for op in module.ops if isinstance(op, FuncOp))
    return module, function


# One turn stands before the loop, one product behind it. Long products need no tile ahead; two trips make no loop.
@pytest.mark.parametrize(("tiles", "times", "trips"), [(5, 2, 4), (3, 2, 2), (2, 2, 2), (5, 300, 5)])
def test_turns_are_ahead_of_short_products(tiles: int, times: int, trips: int) -> None:
    x = np.random.default_rng(0).standard_normal((32, 32 * tiles)).astype(ml_dtypes.bfloat16)
    module, function = program(tiles, times)
    (expected,) = run_function(function, [x], lambda *_: x)
    TileFuseLoopsPass().apply(Context(), module)
    module.verify()
    loops = [op for op in function.body.block.ops if isinstance(op, ForOp)]
    (both,) = (op for op in loops if {"tile.transpose", "tile.matmul"} <= {inner.name for inner in op.walk()})
    assert trip_count(both) == trips
    (result,) = run_function(function, [x], lambda *_: x)
    assert np.array_equal(result, expected)
