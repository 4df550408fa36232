"""The two roofs of a function, read off its graph form: multiply-adds, and bytes that no program can avoid to move."""

from __future__ import annotations

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr
from xdsl.dialects.func import FuncOp

from lowering.graph_to_tile.convert import COMPULSORY_BYTES, MACS, ConvertGraphToTilePass
from lowering.graph_to_tile.traffic import compulsory_bytes
from neuron_dialects.graph.work import model_macs
from neuron_dialects.neuron import Executor, ExecutorAttr, TargetAttr
from tests.graph_level import main_of, parse


def function(arguments: str, body: str) -> FuncOp:
    """@main with this body, of which the last value, `%y`, is returned."""
    returned = body.rpartition("-> ")[2].strip()
    text = f"func.func @main({arguments}) -> {returned} {{\n{body}\nfunc.return %y : {returned}\n}}"
    return main_of(parse(text))


# 2·3·5·7 for a batched product, whichever way its operands lie; 4·6·8·8 outputs of 3 channels x 3 x 3 taps, or of half
# of the channels in two groups; a transposed convolution spends 2 x 3 x 3 on each of its 4·3·8·8 inputs.
@pytest.mark.parametrize(
    ("arguments", "op", "expected"),
    [
        (
            "%a: tensor<2x3x7xf32>, %b: tensor<7x5xf32>",
            "graph.matmul %a, %b : (tensor<2x3x7xf32>, tensor<7x5xf32>) -> tensor<2x3x5xf32>",
            2 * 3 * 5 * 7,
        ),
        (
            "%a: tensor<2x7x3xf32>, %b: tensor<2x5x7xf32>",
            "graph.matmul %a, %b transpose_a transpose_b : (tensor<2x7x3xf32>, tensor<2x5x7xf32>) -> tensor<2x3x5xf32>",
            2 * 3 * 5 * 7,
        ),
        (
            "%x: tensor<4x3x8x8xf32>, %w: tensor<6x3x3x3xf32>",
            "graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : "
            "(tensor<4x3x8x8xf32>, tensor<6x3x3x3xf32>) -> tensor<4x6x8x8xf32>",
            4 * 6 * 8 * 8 * 27,
        ),
        (
            "%x: tensor<4x6x8x8xf32>, %w: tensor<6x3x3x3xf32>",
            "graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 2 : "
            "(tensor<4x6x8x8xf32>, tensor<6x3x3x3xf32>) -> tensor<4x6x8x8xf32>",
            4 * 6 * 8 * 8 * 27,
        ),
        (
            "%x: tensor<4x3x8x8xf32>, %w: tensor<3x2x3x3xf32>",
            "graph.conv_transpose %x, %w strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] output_padding [1, 1] "
            "groups 1 : (tensor<4x3x8x8xf32>, tensor<3x2x3x3xf32>) -> tensor<4x2x16x16xf32>",
            4 * 3 * 8 * 8 * 18,
        ),
        ("%x: tensor<4x6xf32>", "graph.unary exp %x : (tensor<4x6xf32>) -> tensor<4x6xf32>", 0),
    ],
)
def test_multiply_adds(arguments: str, op: str, expected: int) -> None:
    assert sum(model_macs(op) for op in function(arguments, f"%y = {op}").walk()) == expected


# 64 B in, 80 B of weight in bf16, 40 B out: each once, however often the weight is used.
def test_inputs_weights_and_outputs_count_once() -> None:
    made = function(
        "%x: tensor<4x4xf32>",
        """%w = graph.weight @w : tensor<4x10xbf16>
           %v = graph.weight @w : tensor<4x10xbf16>
           %a = graph.cast %w : (tensor<4x10xbf16>) -> tensor<4x10xf32>
           %b = graph.cast %v : (tensor<4x10xbf16>) -> tensor<4x10xf32>
           %c = graph.binary add %a, %b : (tensor<4x10xf32>, tensor<4x10xf32>) -> tensor<4x10xf32>
           %y = graph.cast %c : (tensor<4x10xf32>) -> tensor<4x10xui8>""",
    )
    assert compulsory_bytes(made) == 4 * 4 * 4 + 4 * 10 * 2 + 4 * 10


def gathers(rows: int, indices: int, count: int) -> FuncOp:
    """`count` times `indices` rows of 8 floats out of a table of `rows`, by two ops that name the table."""
    lookups = [
        f"""%t{i} = graph.weight @table : tensor<{rows}x8xf32>
            %g{i} = graph.gather %t{i}, %i axis 0
                : (tensor<{rows}x8xf32>, tensor<{indices}xi32>) -> tensor<{indices}x8xf32>"""
        for i in range(count)
    ]
    type_ = f"tensor<{indices}x8xf32>"
    last = f"%y = graph.binary add %g0, %g{count - 1} : ({type_}, {type_}) -> {type_}"
    return function(f"%i: tensor<{indices}xi32>", "\n".join([*lookups, last]))


# 5 indices and 5 rows of 32 B out; of the table only the rows that are fetched, at most all of them.
@pytest.mark.parametrize(("rows", "count", "fetched"), [(1000, 1, 5), (1000, 2, 10), (7, 2, 7), (3, 1, 3)])
def test_a_table_counts_for_the_rows_fetched(rows: int, count: int, fetched: int) -> None:
    assert compulsory_bytes(gathers(rows, 5, count)) == 5 * 4 + 5 * 32 + fetched * 32


# A table that is also read otherwise (as tied embeddings are) counts whole.
def test_a_table_that_is_multiplied_too_counts_whole() -> None:
    made = function(
        "%i: tensor<5xi32>",
        """%t = graph.weight @table : tensor<1000x8xf32>
           %g = graph.gather %t, %i axis 0 : (tensor<1000x8xf32>, tensor<5xi32>) -> tensor<5x8xf32>
           %y = graph.matmul %g, %t transpose_b : (tensor<5x8xf32>, tensor<1000x8xf32>) -> tensor<5x1000xf32>""",
    )
    assert compulsory_bytes(made) == 5 * 4 + 5 * 1000 * 4 + 1000 * 8 * 4


# The conversion writes both figures down, because the tile level does not show them any more.
def test_the_conversion_keeps_the_figures() -> None:
    module = parse("""
    func.func private @neuron_0(%a: tensor<6x7xf32>, %b: tensor<7x5xf32>) -> tensor<6x5xf32> {
      %y = graph.matmul %a, %b : (tensor<6x7xf32>, tensor<7x5xf32>) -> tensor<6x5xf32>
      func.return %y : tensor<6x5xf32>
    }""")
    (made,) = module.ops
    made.attributes["neuron.executor"] = ExecutorAttr(Executor.CORE)
    module.attributes["neuron.target"] = TargetAttr("trn1")
    ConvertGraphToTilePass().apply(Context(), module)
    (lowered,) = [op for op in module.ops if isinstance(op, FuncOp)]
    figures = [lowered.attributes[name] for name in (MACS, COMPULSORY_BYTES)]
    assert [f.value.data for f in figures if isinstance(f, IntegerAttr)] == [6 * 7 * 5, 4 * (6 * 7 + 7 * 5 + 6 * 5)]
