from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.dialects.func import FuncOp

from neuron_dialects.errors import NeuronError
from runtime.program_interpreter import ProgramInterpreter, run_function
from tests.program_texts import function_of, no_parameters, parse

RNG = np.random.default_rng(2)
BF16 = ml_dtypes.bfloat16


def function_from(arguments: str, body: str, inputs: int = 1) -> FuncOp:
    """A function of that body; `%c1`, `%c2` ... are index constants, `dram`, `sbuf`, `psum` memory spaces."""
    constants = "\n".join(f"%c{n} = arith.constant {n} : index" for n in (0, 1, 2, 3, 4, 8))
    text = f"""
    func.func @f({arguments}) attributes {{neuron.input_count = {inputs} : i64}} {{
      {constants}
      {body}
      func.return
    }}"""
    for space in ("dram", "sbuf", "psum"):
        text = text.replace(f", {space}>", f", #neuron.space<{space}>>")
    return function_of(parse(text))


# y = gelu(w^T x) with K = 256 in two steps that accumulate, over four column blocks of 64.
MATMUL = """
  %w = tile.param "w" : memref<256x32xbf16, dram>
  scf.for %n = %c0 to %c4 step %c1 {
    %p = tile.alloc copies 2 : memref<32x64xf32, psum>
    scf.for %k = %c0 to %c2 step %c1 {
      %xt = tile.alloc copies 2 : memref<128x64xbf16, sbuf>
      %wt = tile.alloc copies 2 : memref<128x32xbf16, sbuf>
      tile.load dst %xt[0:128][0 : 64] src %x[32768*%k + 64*%n : 128 step 256, 64]
      tile.load dst %wt[0:128][0 : 32] src %w[4096*%k : 128 step 32, 32]
      tile.matmul dst %p[0:32][0 : 64] stationary %wt[0:128][0 : 32] moving %xt[0:128][0 : 64] {accumulate = %k}
    }
    %o = tile.alloc : memref<32x64xf32, sbuf>
    tile.activation dst %o[0:32][0 : 64] data %p[0:32][0 : 64] {func = relu}
    tile.store dst %y[64*%n : 32 step 256, 64] src %o[0:32][0 : 64]
  }"""


def test_tile_loops():
    function = function_from("%x : memref<256x256xbf16, dram>, %y : memref<32x256xf32, dram>", MATMUL)
    x, w = RNG.normal(size=(256, 256)).astype(BF16), RNG.normal(size=(256, 32)).astype(BF16)
    expected = np.maximum(w.astype(np.float32).T @ x.astype(np.float32), 0)
    (y,) = run_function(function, [x], {"w": w}.__getitem__)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-3)
    # The same decoded function runs again, on other inputs, and returns arrays of its own.
    interpreter = ProgramInterpreter(function, {"w": w}.__getitem__)
    (first,) = interpreter.run([x])
    (second,) = interpreter.run([(x.astype(np.float32) * 2).astype(BF16)])
    np.testing.assert_allclose(second, 2 * expected, rtol=1e-4, atol=1e-3)
    assert np.array_equal(first, y)


# A buffer in a loop is fresh in every iteration: what the iteration before wrote is gone.
def test_buffers_are_fresh():
    function = function_from(
        "%y : memref<4x1xf32, dram>",
        """
        %keep = tile.alloc : memref<4x1xf32, sbuf>
        tile.memset dst %keep[0:4][0 : 1]
        scf.for %i = %c0 to %c2 step %c1 {
          %t = tile.alloc : memref<4x1xf32, sbuf>
          tile.tensor_tensor dst %keep[0:4][0 : 1] data %keep[0:4][0 : 1] other %t[0:4][0 : 1] {op = add}
          tile.memset dst %t[0:4][0 : 1] {value = 1.0}
        }
        tile.store dst %y[0 : 4] src %keep[0:4][0 : 1]""",
        inputs=0,
    )
    (y,) = run_function(function, [], no_parameters)
    assert np.isnan(y).all()


# What the function does not write of an output is poison.
def test_unwritten_outputs():
    function = function_from("%y : memref<2x2xf32, dram>, %z : memref<3xi32, dram>", "", inputs=0)
    y, z = run_function(function, [], no_parameters)
    assert np.isnan(y).all()
    assert z.tolist() == [-1, -1, -1]


# Scratch in DRAM, a gather of its rows, and integers that stay exact where no engine is chosen.
def test_dram_scratch_and_gather():
    function = function_from(
        "%i : memref<4x1xi32, dram>, %y : memref<4x2xi32, dram>",
        """
        %rows = tile.alloc : memref<8x2xi32, dram>
        %t = tile.alloc : memref<8x2xi32, sbuf>
        %index = tile.alloc : memref<4x1xi32, sbuf>
        %o = tile.alloc : memref<4x2xi32, sbuf>
        tile.iota dst %t[0:8][0 : 2] {offset = 16777217, channel_multiplier = 10}
        tile.store dst %rows[0 : 16] src %t[0:8][0 : 2]
        tile.load dst %index[0:4][0 : 1] src %i[0 : 4]
        tile.gather dst %o[0:4][0 : 2] table %rows[0 : 2] indices %index[0:4][0 : 1] {rows = 8, row_stride = 2}
        tile.store dst %y[0 : 8] src %o[0:4][0 : 2]""",
    )
    (y,) = run_function(function, [np.array([[7], [0], [7], [3]], np.int32)], no_parameters)
    assert (y - 16777217).tolist() == [[70, 71], [0, 1], [70, 71], [30, 31]]
    with pytest.raises(NeuronError, match=r"index 8 at position \[1\] of the indices"):
        run_function(function, [np.array([[7], [8], [7], [3]], np.int32)], no_parameters)


# After allocation: two copies of a buffer at fixed addresses, chosen by a slot; waits are ignored.
ALLOCATED = """
  %a = nisa.alloc copies 2 at 32, {address} stride 512 : memref<32x64xf32, sbuf>
  %b = nisa.alloc at 0, 0 : memref<64x64xf32, sbuf>
  nisa.memset on dve dst %b[0:64][0 : 64] {{value = 3.0}}
  scf.for %i = %c0 to %c3 step %c1 {{
    %s = nisa.slot 2
    nisa.dma_copy on sp ring q0 dst %a[0:32][128*%s : 64] src %x[2048*%i : 2048] wait(act >= %i) signal(q0)
    nisa.activation on act dst %a[0:32][128*%s : 64] data %a[0:32][128*%s : 64] {{scale = 2.0}} wait(q0 >= %i + 1)
    nisa.dma_copy on pool ring q1 dst %y[2048*%i : 2048] src %a[0:32][128*%s : 64]
  }}
  nisa.dma_copy on pool ring q1 dst %z[0 : 64 step 64, 64] src %b[0:64][0 : 64]"""


@pytest.mark.parametrize(("address", "overlap"), [(256, False), (128, True)])
def test_allocated_buffers_share_one_memory(address: int, overlap: bool):
    arguments = "%x : memref<3x32x64xf32, dram>, %y : memref<3x32x64xf32, dram>, %z : memref<64x64xf32, dram>"
    interpreter = ProgramInterpreter(function_from(arguments, ALLOCATED.format(address=address)), no_parameters)
    for _ in range(2):
        x = RNG.normal(size=(3, 32, 64)).astype(np.float32)
        y, z = interpreter.run([x])
        assert np.array_equal(y, 2 * x)
        # %b lies in bytes 0 to 255 of partitions 0 to 63, %a behind it in partitions 32 to 63: at 128 they overlap.
        assert (z[:32] == 3).all()
        assert bool((z[32:] == 3).all()) != overlap


def test_pool_and_dve_differ_on_integers():
    body = """
        %t = nisa.alloc : memref<1x2xi32, sbuf>
        nisa.dma_copy on sp ring q0 dst %t[0:1][0 : 2] src %x[0 : 2]
        nisa.tensor_scalar on ENGINE dst %t[0:1][0 : 2] data %t[0:1][0 : 2] {op0 = add, scalar0 = 2.0}
        nisa.dma_copy on sp ring q0 dst %y[0 : 2] src %t[0:1][0 : 2]"""
    results: dict[str, list[int]] = {}
    for engine in ("pool", "dve"):
        function = function_from("%x : memref<2xi32, dram>, %y : memref<2xi32, dram>", body.replace("ENGINE", engine))
        results[engine] = run_function(function, [np.array([2**24 + 1, 1], np.int32)], no_parameters)[0].tolist()
    assert results == {"pool": [2**24 + 3, 3], "dve": [2**24 + 2, 3]}


# A loop without iterations is not executed, nor are its accesses checked.
def test_an_empty_loop():
    function = function_from(
        "%y : memref<2xf32, dram>",
        "scf.for %i = %c0 to %c0 step %c1 { tile.memset dst %t[0:1][0 : 99] }".join(
            ("%t = tile.alloc : memref<1x2xf32, sbuf>\n", "")
        ),
        inputs=0,
    )
    assert np.isnan(run_function(function, [], no_parameters)[0]).all()


# -- what is refused ---------------------------------------------------------------------------------------------------

TILE = "%t = tile.alloc : memref<32x8xf32, sbuf>\n"
ONE = "%x : memref<32x8xf32, dram>"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        # The last iteration touches element 24 + 7 of a row of 8.
        (
            TILE + "scf.for %i = %c0 to %c4 step %c1 { tile.memset dst %t[0:32][8*%i : 8] }",
            "NX-RUN-001",
            "tile.memset: operand dst touches bytes 0 to 127 of a partition's row, which has 32 (buffer t)",
        ),
        (
            TILE + "tile.memset dst %t[1:32][0 : 8]",
            "NX-RUN-001",
            "tile.memset: operand dst touches partitions 1 to 32, there are 32 (buffer t)",
        ),
        (
            TILE + "tile.load dst %t[0:32][0 : 8] src %x[1 : 256]",
            "NX-RUN-001",
            "tile.load: operand src touches bytes 4 to 1027 of the tensor, which has 1024 (an argument)",
        ),
        (
            TILE + "tile.store dst %x[0 : 256] src %t[0:32][0 : 8]",
            "NX-RUN-004",
            "tile.store writes an input or a parameter",
        ),
        ("nisa.queue pe { nisa.control halt }", "NX-RUN-004", "nisa.queue cannot be executed in program order"),
        (
            "scf.for %i = %c1 to %c4 step %c1 { }",
            "NX-RUN-004",
            "a loop runs from 0 to a constant in steps of 1 and carries no values",
        ),
        (
            "%a = nisa.alloc at 100, 0 : memref<32x8xf32, sbuf>",
            "NX-RUN-001",
            "buffer a of 32 partitions lies outside of sbuf",
        ),
        (
            '%w = tile.param "w" : memref<4x4xf32, dram>',
            "NX-RUN-005",
            "parameter w is float32[2, 2], must be float32[4, 4]",
        ),
    ],
)
def test_refused(body: str, code: str, message: str):
    with pytest.raises(NeuronError) as caught:
        ProgramInterpreter(function_from(ONE, body), lambda symbol: np.zeros((2, 2), np.float32))
    assert (caught.value.code, caught.value.message) == (code, message)


# Errors name the framework node of the operation's location.
def test_errors_name_the_node():
    body = TILE + 'tile.memset dst %t[0:32][0 : 9] loc("Conv_5")'
    with pytest.raises(NeuronError) as caught:
        ProgramInterpreter(function_from(ONE, body), no_parameters)
    assert caught.value.node == "Conv_5"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "0 inputs given, the function has 1"),
        ([np.zeros((8, 32), np.float32)], "input 0 is float32[8, 32], must be float32[32, 8]"),
        ([np.zeros((32, 8), np.int32)], "input 0 is int32[32, 8], must be float32[32, 8]"),
    ],
)
def test_inputs_that_do_not_fit(inputs: list[NDArray[Any]], message: str):
    with pytest.raises(NeuronError) as caught:
        run_function(function_from(ONE, ""), inputs, no_parameters)
    assert (caught.value.code, caught.value.message) == ("NX-RUN-005", message)


def test_without_an_input_count():
    function = function_from(ONE, "")
    del function.attributes["neuron.input_count"]
    with pytest.raises(NeuronError, match=r"has no valid 'neuron\.input_count'"):
        run_function(function, [], no_parameters)
