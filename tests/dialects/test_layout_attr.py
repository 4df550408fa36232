"""`#graph.layout`: what it says of a tensor, its text, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects import test
from xdsl.dialects.builtin import TensorType, f32
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import LayoutAttr, layout_of
from tests.graph_level import make_context, parse

WIDTHS = st.tuples(st.integers(0, 9), st.integers(0, 9))


def read(text: str) -> LayoutAttr:
    """The attribute of its text."""
    attr = Parser(make_context(), text).parse_attribute()
    assert isinstance(attr, LayoutAttr)
    return attr


# In an image [1, 64, 56, 56] channels lie on partitions; batch, height and width follow, with borders for a 3x3 window.
def test_a_resident_image() -> None:
    layout = LayoutAttr.resident(1, [(0, 0), (1, 1), (1, 2)])
    assert layout.partition_dimension == 1
    assert layout.halo_pairs == ((0, 0), (1, 1), (1, 2))
    assert str(layout) == "#graph.layout<sbuf, partition 1, halo [0, 0, 1, 1, 1, 2]>"


# A halo of nothing is no halo: equal layouts are equal attributes.
def test_an_empty_halo_is_left_out() -> None:
    assert LayoutAttr.resident(0, [(0, 0), (0, 0)]) == LayoutAttr.resident(0)
    assert str(LayoutAttr.resident(0, [(0, 0)])) == "#graph.layout<sbuf, partition 0>"
    assert LayoutAttr.resident(0).halo_pairs == ()


@given(st.integers(0, 9), st.lists(WIDTHS, max_size=4))
def test_text_reads_back(partition: int, halo: list[tuple[int, int]]) -> None:
    layout = LayoutAttr.resident(partition, halo)
    assert read(str(layout)) == layout


@pytest.mark.parametrize(
    "text",
    [
        "#graph.layout<psum, partition 1>",
        "#graph.layout<sbuf>",
        "#graph.layout<sbuf, partition x>",
        "#graph.layout<sbuf, partition 1, halo 3>",
        "#graph.layout<sbuf, partition 1, border [1, 1]>",
        "#graph.layout<sbuf, partition 1",
        "#graph.layout<sbuf, partition 1, halo [1, 1], halo [2, 2]>",
        "#graph.layout<sbuf, partition 1, rows 2, rows 1>",
        "#graph.layout<sbuf, partition 1, halo [1, 1], rows 2>",
        "#graph.layout<sbuf, partition 1, rows 2,>",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        read(text)


@pytest.mark.parametrize(("partition", "halo"), [("-1", "[]"), ("0", "[1]"), ("0", "[1, -1]"), ("0", "[0, 0, 1]")])
def test_numbers_that_make_no_sense_are_refused(partition: str, halo: str) -> None:
    with pytest.raises((VerifyException, ParseError), match="layout: partition"):
        read(f"#graph.layout<sbuf, partition {partition}, halo {halo}>")


def test_a_tensor_without_encoding_lies_in_dram() -> None:
    layout = LayoutAttr.resident(1)
    plain, placed = TensorType(f32, [4, 8]), TensorType(f32, [4, 8], layout)
    values = test.TestOp(result_types=[plain, placed]).results
    assert [layout_of(value) for value in values] == [None, layout]


@pytest.mark.parametrize(
    ("layout", "rank", "problem"),
    [
        (LayoutAttr.resident(1), 2, None),
        (LayoutAttr.resident(3, [(1, 1)] * 3), 4, None),
        (LayoutAttr.resident(2), 2, "layout names dimension 2 of a tensor of rank 2"),
        (LayoutAttr.resident(0), 0, "layout names dimension 0 of a tensor of rank 0"),
        (LayoutAttr.resident(0, [(1, 1)]), 3, "a halo to 1 dimensions, a tensor of rank 3 has 2"),
    ],
)
def test_a_layout_must_fit_its_tensor(layout: LayoutAttr, rank: int, problem: str | None) -> None:
    found = layout.misfit(rank)
    assert (found is None) == (problem is None)
    assert (problem or "") in (found or "")


# A layout can be written by hand, so the lowering looks at it before it believes it.
def test_the_lowering_refuses_a_layout_that_does_not_fit() -> None:
    module = parse("""
    builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
      func.func private @neuron_0(%x: tensor<4x8xf32>) -> tensor<4x8xf32> attributes {
          neuron.executor = #neuron.executor<core>} {
        %y = graph.unary relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32, #graph.layout<sbuf, partition 2>> loc("relu_1")
        %z = graph.unary exp %y : (tensor<4x8xf32, #graph.layout<sbuf, partition 2>>) -> tensor<4x8xf32>
        func.return %z : tensor<4x8xf32>
      }
    }""")
    with pytest.raises(NeuronError, match="layout names dimension 2 of a tensor of rank 2") as caught:
        ConvertGraphToTilePass().apply(Context(), module)
    assert (caught.value.code, caught.value.node) == ("NX-IR-001", "relu_1")
