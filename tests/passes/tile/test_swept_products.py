"""What products multiply is swept over beside the products before them, with the same numbers."""

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Operation

from neuron_dialects.loops import trip_count
from neuron_dialects.tile import AllocOp
from passes.tile.fuse_loops import TileFuseLoopsPass
from passes.tile.later_turns import nested_loop, swap_loops
from runtime.program_interpreter import run_function
from tests.program_texts import assert_same_numbers, function_of, loops_of, no_parameters, parse

HEAD = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(
    %x: memref<32xROWxbf16, #neuron.space<dram>>, %y: memref<32xROWxf32, #neuron.space<dram>>
  ) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    %images = arith.constant IMAGES : index
    %parts = arith.constant PARTS : index
    %times = arith.constant TIMES : index
    %w = tile.alloc : memref<32x32xbf16, #neuron.space<sbuf>>
    tile.load dst %w[0:32][0 : 32] src %x[0 : 32 step ROW, 32]
    %all = tile.alloc : memref<32xALLxbf16, #neuron.space<sbuf>>
    tile.load dst %all[0:32][0 : ROW] src %x[0 : 32 step ROW, ROW]
    tile.load dst %all[0:32][ROW : ROW] src %x[0 : 32 step ROW, ROW]
    %h0 = tile.alloc : memref<32xROWxbf16, #neuron.space<sbuf>>
    tile.copy dst %h0[0:32][0 : ROW] data %all[0:32][0 : ROW]
"""
# A layer: long products of what is there make the newest rows (64 of each image), activations sweep over those and over
# the two old ones, short products multiply them, several for each image.
LAYER = """
    scf.for %i = %c0 to %images step %c1 {
      %p = tile.alloc copies 4 : memref<32x64xf32, #neuron.space<psum>>
      scf.for %k = %c0 to %times step %c1 {
        tile.matmul dst %p[0:32][0 : 64] stationary %w[0:32][0 : 32] moving %hPAST[0:32][64*%i : 64] {accumulate = %k}
      }
      tile.copy dst %all[0:32][64*%i + TWICE : 64] data %p[0:32][0 : 64]
    }
    %bNOW = tile.alloc : memref<32x1xf32, #neuron.space<sbuf>>
    %sNOW = tile.alloc : memref<32xALLxbf16, #neuron.space<sbuf>>
    scf.for %o = %c0 to %c2 step %c1 {
      scf.for %i = %c0 to %images step %c1 {
        tile.activation dst %sNOW[0:32][OLD] data %all[0:32][FROM] {func = relu}
      }
    }
    scf.for %i = %c0 to %images step %c1 {
      tile.activation dst %sNOW[0:32][64*%i + TWICE : 64] data %all[0:32][64*%i + TWICE : 64] {func = relu}
    }
    %hNOW = tile.alloc : memref<32xROWxbf16, #neuron.space<sbuf>>
    scf.for %i = %c0 to %parts step %c1 {
      %q = tile.alloc copies 2 : memref<32xPIECExf32, #neuron.space<psum>>
      scf.for %o = %c0 to %c3 step %c1 {
        tile.matmul dst %q[0:32][0 : PIECE] stationary %w[0:32][0 : 32]
          moving %sNOW[0:32][READ + ROW*%o : PIECE] {accumulate = %o}
      }
      tile.copy dst %hNOW[0:32][PIECE*%i : PIECE] data %q[0:32][0 : PIECE]
    }
"""
OLD = ("64*%i + ROW*%o : 64", "64*%i + ROW*%o : 64")
"""Where a sweep over the old rows writes, and what it reads."""

TAIL = """
    %made = tile.alloc : memref<32xROWxf32, #neuron.space<sbuf>>
    tile.copy dst %made[0:32][0 : ROW] data %hLAST[0:32][0 : ROW]
    tile.store dst %y[0 : 32 step ROW, ROW] src %made[0:32][0 : ROW]
    func.return
  }
}
"""


def program(
    images: int, times: int, pieces: int, layers: int, read: str = "PIECE*%i", old: tuple[str, str] = OLD
) -> ModuleOp:
    """A module of so many layers."""
    body = [LAYER.replace("PAST", str(n)).replace("NOW", str(n + 1)) for n in range(layers)]
    text = HEAD + "    %c3 = arith.constant 3 : index\n" + "".join(body) + TAIL.replace("LAST", str(layers))
    parts = {"OLD": old[0], "FROM": old[1], "READ": read}
    numbers = {"IMAGES": images, "PARTS": images * pieces, "TIMES": times, "TWICE": 128 * images}
    return parse(text, parts | numbers | {"PIECE": 64 // pieces, "ROW": 64 * images, "ALL": 192 * images})


def fused(module: ModuleOp, images: int) -> list[ForOp]:
    """The loops of the function that the pass leaves, which computes what it computed before."""
    x = (np.random.default_rng(0).standard_normal((32, 64 * images)) / 8).astype(ml_dtypes.bfloat16)
    assert_same_numbers(module, TileFuseLoopsPass(), [x])
    return loops_of(module)


def names(op: Operation) -> list[str]:
    return [inner.name for inner in op.walk() if inner.name.startswith("tile.") and inner.name != "tile.alloc"]


# One loop has the long products, the sweeps of all rows (the old ones first) and the short products, an image behind.
@pytest.mark.parametrize(("images", "pieces"), [(4, 1), (3, 1), (4, 2), (5, 4)])
def test_products_stand_an_iteration_behind_what_sweeps_over_their_operand(images: int, pieces: int) -> None:
    loops = fused(program(images, 100, pieces, 1), images)
    (both,) = (loop for loop in loops if names(loop).count("tile.matmul") == 2 and trip_count(loop) == images - 1)
    kinds = ["tile.activation", "tile.matmul", "tile.copy", "tile.activation", "tile.matmul", "tile.copy"]
    assert names(both) == kinds
    copies = [op.copies.value.data for op in both.walk() if isinstance(op, AllocOp)]
    assert copies == [2, max(2, pieces)]


# The last short products of a layer stand behind the first long ones of the next.
def test_last_products_wait_behind_the_next_layers_first() -> None:
    loops = fused(program(4, 100, 1, 2), 4)
    fused_loops = [loop for loop in loops if len(names(loop)) > 4]
    assert len(fused_loops) == 2
    before = fused_loops[1].prev_op
    found: list[str] = []
    while before is not None and before is not fused_loops[0]:
        found = [*names(before), *found]
        before = before.prev_op
    products = [name for name in found if name in ("tile.matmul", "tile.copy", "tile.activation")]
    # Of the next layer: the long product, its copy and sweep (the old rows' first); then what is left of this one.
    assert products[-2:] == ["tile.matmul", "tile.copy"]
    assert products.count("tile.activation") == 2


# Short first products hide no sweep; two images leave no loop; what reads another image's sweep stays behind all.
@pytest.mark.parametrize(
    ("images", "times", "read"),
    [(4, 2, "PIECE*%i"), (2, 100, "PIECE*%i"), (4, 100, "192 + -64*%i")],
)
def test_other_products_stay_behind(images: int, times: int, read: str) -> None:
    loops = fused(program(images, times, 1, 1, read), images)
    assert not any(names(loop).count("tile.matmul") == 2 for loop in loops)


# Loops of a nest are swapped, with the same numbers; a loop over more than a loop is no nest.
def test_nests_are_swapped() -> None:
    module = program(4, 1, 1, 1)
    products, nest, sweep, _ = loops_of(module)
    assert nested_loop(sweep) is None
    assert nested_loop(products) is None
    x = np.arange(32 * 256).reshape(32, 256).astype(ml_dtypes.bfloat16)
    (expected,) = run_function(function_of(module), [x], no_parameters)
    inner = nested_loop(nest)
    assert inner is not None
    swap_loops(nest, inner)
    assert [trip_count(nest), trip_count(inner)] == [4, 2]
    (result,) = run_function(function_of(module), [x], no_parameters)
    assert np.array_equal(result, expected)


# The old rows are swept over in front of the newest ones. Where the sweep's steps overlap, so that another order of
# them leaves something else, it stays outside.
@pytest.mark.parametrize(("old", "sweeps"), [(OLD, 2), (("64*%i + 192*%o : 128", "64*%i : 128"), 1)])
def test_sweeps_whose_steps_overlap_are_not_swapped(old: tuple[str, str], sweeps: int) -> None:
    loops = fused(program(4, 100, 1, 1, old=old), 4)
    assert max(names(loop).count("tile.activation") for loop in loops) == sweeps
