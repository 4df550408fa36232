"""Attention whose scores are lowered by one number, against the graph level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile import attention
from lowering.graph_to_tile.attention_plan import PlanFigures, keys_pay
from lowering.graph_to_tile.attention_shifted import ShiftedKeyAttention
from neuron_dialects.graph import AttentionOp
from neuron_dialects.graph.attention import SCORE_SHIFT
from neuron_dialects.graph.attrs import f32_attr
from neuron_dialects.target import load_target
from tests.core_kernels import Make, lowered_error
from tests.lowering.graph_to_tile.test_attention_keys import SEQUENCES, lay_out, projected, weights_of


def shifted(make: Make, shift: float) -> Make:
    """The same with a promise on its attention."""

    def promise(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        results = make(block, arguments, values)
        for op in block.ops:
            if isinstance(op, AttentionOp):
                op.attributes[SCORE_SHIFT] = f32_attr(shift)
        return results

    return promise


# (heads, positions, features, shift, gain, target): several tiles of keys, none subtracted; units of several heads;
# more keys than a bank takes; scores of which powers would overflow if nothing were subtracted, or vanish.
@pytest.mark.parametrize(
    ("heads", "length", "width", "shift", "target"),
    [
        (4, 197, 256, 0.0, "trn1"),
        (12, 128, 384, 16.0, "trn1"),
        (2, 260, 256, -60.0, "trn1"),
        (4, 520, 256, 60.0, "trn1"),
    ],
)
def test_matches_the_graph_level(
    heads: int, length: int, width: int, shift: float, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[AttentionOp] = []

    class Spy(ShiftedKeyAttention):
        def prepare(self) -> None:
            seen.append(self.op)
            super().prepare()

    monkeypatch.setattr(attention, "ShiftedKeyAttention", Spy)
    inputs, make = [("bf16", (SEQUENCES * length, width))], shifted(projected(heads, length, width), shift)
    assert lowered_error(target, inputs, weights_of(width), make, lay_out) < 1e-2
    assert len(seen) == 1


# Scores that are made once pay where those that are made twice do not.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
def test_the_choice_follows_the_figures_of_the_target(target: str) -> None:
    assert keys_pay(PlanFigures(99, 197, 64, shifted=True), load_target(target))
