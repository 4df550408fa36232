"""Activations that move up before products: what moves, where there is room, and that numbers stay."""

import numpy as np
import pytest
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp

from neuron_dialects.tile import TileOp
from passes.tile.advance_sweeps import advance_sweeps
from runtime.program_interpreter import run_function
from tests.program_texts import function_of, no_parameters, parse

# %y are activations of both halves of %z; a product makes the second half.
TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %x: memref<64x64xf32, #neuron.space<dram>>, %b: memref<64xf32, #neuron.space<dram>>,
    %out: memref<64x128xf32, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 2 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    %z = tile.alloc : memref<64x128xf32, #neuron.space<sbuf>>
    tile.load dst %z[0:64][0 : 64] src %x[0 : 64 step 64, 64]
    scf.for %i = %c0 to %c2 step %c1 {
      %p = tile.alloc copies 2 : memref<64x32xf32, #neuron.space<psum>>
      tile.matmul dst %p[0:64][0 : 32] stationary %z[0:64][0 : 64] moving %z[0:64][32*%i : 32]
      tile.copy dst %z[0:64][64 + 32*%i : 32] data %p[0:64][0 : 32]
    }
    %column = tile.alloc : memref<64x1xf32, #neuron.space<sbuf>>
    tile.load dst %column[0:64][0 : 1] src %b[0 : 64, 1]
    %y = tile.alloc : memref<64x128xf32, #neuron.space<sbuf>>
    tile.activation dst %y[0:64][0 : 64] data %z[0:64][0 : 64] bias %column[0:64][0 : 1] {func = relu}
    tile.activation dst %y[0:64][64 : 64] data %z[0:64][64 : 64] bias %column[0:64][0 : 1] {func = relu}
    tile.store dst %out[0 : 64 step 128, 128] src %y[0:64][0 : 128]
    func.return
  }
}
"""


def program(capacity_bytes: int) -> FuncOp:
    """The function after the pass, with so many bytes of a partition to use."""
    module = parse(TEXT)
    function = function_of(module)
    advance_sweeps(function.body.block, capacity_bytes)
    module.verify()
    return function


def names(function: FuncOp) -> list[str]:
    """The statements in order."""
    return [op.name.partition(".")[2] for op in function.body.block.ops if isinstance(op, TileOp | ForOp)]


LATE = ["load", "for", "load", "activation", "activation", "store"]
EARLY = ["load", "load", "activation", "for", "activation", "store"]


# %z and %y take 512 bytes each, the column 4: one less than all of them together, and nothing moves.
@pytest.mark.parametrize(("capacity", "order"), [(1028, EARLY), (1027, LATE)])
def test_what_products_do_not_make_moves_up_where_there_is_room(capacity: int, order: list[str]) -> None:
    function = program(capacity)
    assert names(function) == order
    rng = np.random.default_rng(0)
    x, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 64), (64,)))
    (out,) = run_function(function, [x, b], no_parameters)
    expected = np.maximum(np.concatenate([x, x.T @ x], axis=1) + b[:, None], 0)
    np.testing.assert_allclose(out.reshape(64, 128), expected, rtol=1e-5, atol=1e-5)
