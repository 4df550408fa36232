"""Profiles in a notebook: the same figures as everywhere, and what was saved comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

import neuron_toolkit as nt
from runtime.profile.summary import summary_of
from tests.runtime.profile.profiles import small_analysis, small_neff


def test_profile_of_a_loaded_model(tmp_path: Path):
    profile = nt.load(small_neff()).profile()
    assert profile.figures == summary_of(small_analysis().profile)
    assert [row.name for row in profile.layers if row.flops] == ["/net/layer.0", "/net/layer.1"]
    assert sum(row.critical_ns for row in profile.operators) == pytest.approx(profile.figures["total_time"] * 1e9)
    assert "small-payload" in [advice.rule.name for advice in profile.advice]
    faster = profile.what_if("dma=inf")
    assert faster.figures["total_time"] < profile.figures["total_time"]
    profile.save(tmp_path)
    back = nt.ModelProfile.read(tmp_path)
    assert back.figures == profile.figures
    assert back.what_if("dma=inf").figures == faster.figures
    with pytest.raises(nt.NeuronError, match="NX-PROF-002"):
        profile.what_if("speed=2x")


def test_notebooks_show_a_profile():
    shown = nt.load(small_neff()).profile()._repr_html_()  # pyright: ignore[reportPrivateUsage]
    for text in ("(simulated)", "/net/layer.0", "share", "small-payload"):
        assert text in shown
