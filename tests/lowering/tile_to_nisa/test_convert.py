"""`convert-tile-to-nisa`: one instruction for each op, an engine or a ring for each instruction, the same numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.parser import Parser

from lowering.tile_to_nisa.convert import LOAD_RINGS, STORE_RINGS, ConvertTileToNisaPass
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import verify_instruction
from neuron_dialects.nisa import NisaOp
from neuron_dialects.ssa_order import check_ssa_order
from neuron_dialects.target import load_target
from runtime.program_interpreter import run_function
from tests.core_kernels import Array
from tests.graph_level import no_weights
from tools.module_file import make_context

BIG = "memref<16384xf32, #neuron.space<dram>>"
"""An argument that any small test fits into."""


def module_of(body: str, target: str = "trn1", arguments: str = f"%x: {BIG}, %y: {BIG}") -> ModuleOp:
    """A module with one core function of this body."""
    text = f"""
builtin.module attributes {{neuron.target = #neuron.target<"{target}">}} {{
  func.func private @neuron_0({arguments}) attributes {{
      neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64}} {{
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c3 = arith.constant 3 : index
    {body}
    func.return
  }}
}}"""
    module = Parser(make_context(), text).parse_module()
    module.verify()
    return module


def function_of(module: ModuleOp) -> FuncOp:
    (function,) = [op for op in module.ops if isinstance(op, FuncOp)]
    return function


def converted(body: str, target: str = "trn1") -> ModuleOp:
    """The module after the conversion, verified, every instruction legal on the target."""
    module = module_of(body, target)
    ConvertTileToNisaPass().apply(Context(), module)
    module.verify()
    assert check_ssa_order(module) == []
    for op in instructions(module):
        assert verify_instruction(op.instruction(), load_target(target)) == []
    return module


def instructions(module: ModuleOp) -> list[NisaOp]:
    return [op for op in module.walk() if isinstance(op, NisaOp)]


def outcome(module: ModuleOp) -> list[Array]:
    """What the function leaves in %y for a given %x."""
    x = np.random.default_rng(0).standard_normal(16384).astype(np.float32)
    return run_function(function_of(module), [x], no_weights)


# Buffers, loops and the names of values stay as they are; only ops become instructions.
def test_loops_and_buffers_stay() -> None:
    module = converted("""
    %w = tile.param "w" : memref<128x4xf32, #neuron.space<dram>>
    scf.for %i = %c0 to %c3 step %c1 {
      %rows = tile.alloc copies 2 : memref<128x8xf32, #neuron.space<sbuf>>
      tile.load dst %rows[0:128][0 : 8] src %x[1024*%i : 1024]
      tile.store dst %y[1024*%i : 1024] src %rows[0:128][0 : 8]
    }""")
    text = str(module)
    assert "tile." not in text
    assert '%w = nisa.param "w" : memref<128x4xf32, #neuron.space<dram>>' in text
    assert "%rows = nisa.alloc copies 2 : memref<128x8xf32, #neuron.space<sbuf>>" in text
    assert re.search(r"scf.for %i = %c0 to %c3 step %c1 \{", text)
    assert "dst %rows[0:128][0 : 8] src %x[1024*%i : 1024]" in text


# Loads and stores never share a trigger engine or a ring: a store that waits for its data holds no load back.
@pytest.mark.parametrize("target", ["inf1", "trn1", "trn2"])
def test_transfers_are_dealt_to_rings(target: str) -> None:
    count = 6
    tiles = "".join(f"%t{i} = tile.alloc : memref<1x8xf32, #neuron.space<sbuf>>\n" for i in range(count))
    moves = "".join(
        f"tile.load dst %t{i}[0:1][0 : 8] src %x[{8 * i} : 8]\ntile.store dst %y[{8 * i} : 8] src %t{i}[0:1][0 : 8]\n"
        for i in range(count)
    )
    found = instructions(converted(tiles + moves, target))
    loads, stores = found[::2], found[1::2]
    triggers = load_target(target).dma_trigger_list
    assert {op.engine.data for op in loads} == {triggers["load"]}
    assert {op.engine.data for op in stores} == {triggers["store"]}
    assert triggers["load"] != triggers["store"]
    assert [op.ring.data for op in loads if op.ring] == [f"load{i % LOAD_RINGS}" for i in range(count)]
    assert [op.ring.data for op in stores if op.ring] == [f"store{i % STORE_RINGS}" for i in range(count)]


# An evicted bank may go through either engine, so two of them go through both; unless these take turns at PSUM anyway.
@pytest.mark.parametrize(("target", "engines"), [("trn1", {"act"}), ("trn2", {"act", "dve"})])
def test_engines_share_the_work(target: str, engines: set[str]) -> None:
    module = converted(
        """
    %p = tile.alloc : memref<128x512xf32, #neuron.space<psum>>
    %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
    %b = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
    tile.copy dst %a[0:128][0 : 512] data %p[0:128][0 : 512]
    tile.copy dst %b[0:128][0 : 512] data %p[0:128][0 : 512]""",
        target,
    )
    assert {op.engine.data for op in instructions(module)} == engines


# Six dimensions in one pattern, three in the other: two of them become loops around the instruction.
def test_views_of_many_dimensions_are_cut_into_loops() -> None:
    body = """
    %a = tile.alloc : memref<4x4096xf32, #neuron.space<sbuf>>
    %b = tile.alloc : memref<4x4096xf32, #neuron.space<sbuf>>
    tile.load dst %a[0:4][0 : 4096] src %x[0 : 16384]
    tile.memset dst %b[0:4][0 : 4096] {value = 0.0}
    tile.activation dst %b[0:4][5 : 2 step 900, 6 step 70, 12] data \
      %a[0:4][3 : 2 step 1000, 2 step 300, 3 step 90, 2 step 20, 3 step 5, 2] {func = square}
    tile.store dst %y[0 : 16384] src %b[0:4][0 : 4096]"""
    module = converted(body)
    (square,) = [op for op in instructions(module) if op.name == "nisa.activation"]
    assert len(square.indices) == 2
    assert all(len(pattern.dims) <= 4 for _, pattern in square.views.values())
    np.testing.assert_array_equal(outcome(module), outcome(module_of(body)))


STRIDED = st.permutations([(2**d, 2) for d in range(7)])
"""Orders in which 128 elements of a row can be visited."""


# Whatever the dimensions of the two sides, the loops visit the same elements in the same order.
@given(STRIDED, STRIDED)
def test_cut_loops_compute_the_same(source: list[tuple[int, int]], destination: list[tuple[int, int]]) -> None:
    def text(dims: list[tuple[int, int]]) -> str:
        return ", ".join(f"{size} step {stride}" for stride, size in dims)

    body = f"""
    %a = tile.alloc : memref<2x128xf32, #neuron.space<sbuf>>
    %b = tile.alloc : memref<2x128xf32, #neuron.space<sbuf>>
    tile.load dst %a[0:2][0 : 128] src %x[0 : 256]
    tile.copy dst %b[0:2][0 : {text(destination)}] data %a[0:2][0 : {text(source)}]
    tile.store dst %y[0 : 256] src %b[0:2][0 : 128]"""
    module = module_of(body)
    before = outcome(module)[0][:256]
    ConvertTileToNisaPass().apply(Context(), module)
    (copy,) = [op for op in instructions(module) if op.name != "nisa.dma_copy"]
    assert all(len(pattern.dims) <= 4 for _, pattern in copy.views.values())
    np.testing.assert_array_equal(outcome(module)[0][:256], before)


# 2 x 3 x 5 x 7 x 11 elements against 11 x 7 x 5 x 3 x 2: no common outer dimension, and nothing to cut.
def test_dimensions_that_cannot_be_cut_are_an_error() -> None:
    with pytest.raises(NeuronError, match="more than 4 dimensions") as caught:
        converted("""
    %a = tile.alloc : memref<1x16384xf32, #neuron.space<sbuf>>
    tile.copy dst %a[0:1][0 : 2 step 5000, 3 step 1200, 5 step 200, 7 step 25, 11] data \
      %a[0:1][0 : 11 step 1400, 7 step 190, 5 step 30, 3 step 7, 2]""")
    assert caught.value.code == "NX-ISA-002"


# An ISA without the instruction says so, with the node's name.
def test_what_the_target_cannot_execute_is_an_error() -> None:
    body = """
    %a = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
    tile.iota dst %a[0:128][0 : 8] loc("positions")"""
    assert [op.name for op in instructions(converted(body))] == ["nisa.iota"]
    with pytest.raises(NeuronError) as caught:
        converted(body, "inf1")
    assert (caught.value.code, caught.value.node) == ("NX-ISA-003", "positions")


# Functions of the host, and those that are nisa already, are left alone.
def test_only_core_functions_of_tile_ops_change() -> None:
    module = converted("%a = tile.alloc : memref<1x8xf32, #neuron.space<sbuf>>")
    before = str(module)
    ConvertTileToNisaPass().apply(Context(), module)
    assert str(module) == before


# What clears the border of a tile that is loaded does not stand in the stream of stores, which wait for results.
def test_borders_are_cleared_beside_the_stream_of_stores() -> None:
    buffers = """%a = tile.alloc copies 1 : memref<8x16xf32, #neuron.space<sbuf>>
    %b = tile.alloc copies 1 : memref<8x16xf32, #neuron.space<sbuf>>"""
    clear = "tile.memset dst %b[0:8][{at} : 1] {{value = 0.0}}"
    load = "tile.load dst %b[0:8][1 : 14] src %x[0 : 8 step 14, 14]"
    text = "\n    ".join(
        [
            buffers,
            "tile.store dst %y[0 : 8 step 16, 16] src %a[0:8][0 : 16]",
            *(clear.format(at=at) for at in (0, 15)),
            load,
        ]
    )
    module = converted(text)
    engines = [op.instruction().engine for op in instructions(module) if op.DEFINITION.name == "memset"]
    assert engines == ["dve", "dve"]
