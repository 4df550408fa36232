"""Random models in stages on several cores compute what they compute on one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx.parser
import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.errors import NeuronError
from neuron_dialects.target import load_target
from passes.graph.pipeline_cut import Cutter
from passes.graph.pipeline_fold import Cut, Cuts
from runtime.neff import Neff, neff_bytes, read_neff
from runtime.pipelined import run_pipeline
from runtime.races import check_pipeline_races
from runtime.session import Session
from tests.random_models.checking import Example, has_f16_values
from tests.random_models.test_random_models import examples

CHECKS = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
TOO_FEW = ("NX-PIPE-002",)
TOLERANCE = 1e-5
"""Of f32 sums in another order."""

SHORT_TOLERANCE = 2**-7
"""Where values are rounded to 16 bits: another last bit of a sum may round it to the neighbour in bf16."""

PHASES = (Phase.explicit, Phase.generate)
"""Without shrinking: each example is compiled several times."""


def compiled(example: Example, cores: int | str) -> Neff:
    options = CompileOptions(example.target, example.auto_cast, neuroncore_pipeline_cores=cores)
    neff = compile_model(example.model, options).neff
    assert neff is not None
    return neff


def check_equal(have: np.ndarray, want: np.ndarray, name: str, tolerance: float) -> None:
    """Floats agree within a tolerance of themselves and of the largest, all else exactly."""
    if want.dtype.kind == "f":
        scale = max(1.0, float(np.nanmax(np.abs(want), initial=0.0, where=np.isfinite(want))))
        np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance * scale, err_msg=name)
    else:
        np.testing.assert_array_equal(have, want, name)


def check_pipeline(example: Example, cores: int | str) -> None:
    """Outputs of both NEFFs agree, to the bit or, for floats, within rounding; no stage races, nor do two."""
    try:
        pipelined = read_neff(neff_bytes(compiled(example, cores)))
    except NeuronError as error:
        # Models of one operator, or of none on the core.
        assume(error.code not in TOO_FEW)
        raise
    want = Session(compiled(example, 1)).run(example.feeds).outputs
    have = Session(pipelined).run(example.feeds).outputs
    assert list(have) == list(want)
    has_short_values = example.auto_cast != "none" or has_f16_values(example, *want.values())
    tolerance = SHORT_TOLERANCE if has_short_values else TOLERANCE
    for name, value in want.items():
        assert (have[name].dtype, have[name].shape) == (value.dtype, value.shape)
        check_equal(have[name], value, name, tolerance)
    check_streamed(pipelined, example, have)
    assert check_pipeline_races([image.program for image in pipelined.subgraphs], load_target(example.target)) == []


def check_streamed(pipelined: Neff, example: Example, alone: Mapping[str, np.ndarray]) -> None:
    """Requests that follow each other on all cores at once give what each gives alone, within the rounding of sums."""
    try:
        streamed = run_pipeline(pipelined, [example.feeds] * 3).outputs
    except NeuronError as error:
        # Models with host segments between core segments.
        if error.code != "NX-RUN-013":
            raise
        return
    for outputs in streamed:
        for name, value in alone.items():
            check_equal(outputs[name], value, name, TOLERANCE)


@seed(20240611)
@settings(max_examples=12, deadline=None, database=None, phases=PHASES, suppress_health_check=CHECKS)
@given(examples(), st.sampled_from((2, 3, "auto")))
def test_a_pipeline_computes_what_one_core_computes(example: Example, cores: int | str) -> None:
    check_pipeline(example, cores)


@pytest.fixture
def always_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every core but the last has two stages, wherever the model can be cut so often."""
    usual, plain = Cuts.cut, Cuts.plain_cut

    def folded(cuts: Cuts, cores: int) -> Cut | None:
        stages = Cutter(cuts.plain.chain, cuts.plain.costs, 2 * cores - 1).stages(2 * cores - 1)
        if stages is None:
            return None
        cut = Cut(tuple(stages), (*range(cores), *range(cores - 2, -1, -1)))
        fits = all(cut.needed_bytes(core) <= cuts.plain.costs.capacity_bytes for core in range(cores))
        return cut if fits else None

    monkeypatch.setattr(Cuts, "cut", lambda cuts, cores: folded(cuts, cores) or usual(cuts, cores))
    monkeypatch.setattr(Cuts, "plain_cut", lambda cuts, cores: folded(cuts, cores) or plain(cuts, cores))


FIXTURE = (*CHECKS, HealthCheck.function_scoped_fixture)


@seed(9)
@settings(max_examples=4, deadline=None, database=None, phases=PHASES, suppress_health_check=FIXTURE)
@given(examples(), st.sampled_from((2, 3)))
@pytest.mark.usefixtures("always_folded")
def test_a_folded_pipeline_computes_what_one_core_computes(example: Example, cores: int) -> None:
    check_pipeline(example, cores)


@pytest.mark.nightly
@seed(10)
@settings(max_examples=100, deadline=None, database=None, phases=PHASES, suppress_health_check=FIXTURE)
@given(examples(), st.sampled_from((2, 3, 4, 5)))
@pytest.mark.usefixtures("always_folded")
def test_many_folded_pipelines_compute_what_one_core_computes(example: Example, cores: int) -> None:
    check_pipeline(example, cores)


@pytest.mark.nightly
@seed(4)
@settings(max_examples=150, deadline=None, database=None, phases=PHASES, suppress_health_check=CHECKS)
@given(examples(), st.sampled_from((2, 3, 4, 6, "auto")))
def test_many_pipelines_compute_what_one_core_computes(example: Example, cores: int | str) -> None:
    check_pipeline(example, cores)


def test_an_argument_that_is_a_result_in_another_type() -> None:
    """A cast that only narrows what the core computes with: a stage passes the argument on, in the result's type."""
    text = """<ir_version: 9, opset_import: ["" : 18]>
    narrowed (int64[2,7] x, float[64,64] a) => (int32[2,7] y, float[64,64] e) {
      y = Cast<to = 6>(x)
      b = Tanh(a)
      d = MatMul(b, b)
      e = MatMul(d, b)
    }"""
    rng = np.random.default_rng(0)
    feeds = {"x": np.arange(14).reshape(2, 7), "a": rng.standard_normal((64, 64)).astype(np.float32) / 8}
    check_pipeline(Example(onnx.parser.parse_model(text), feeds, "inf2", "none", check_races=True), 2)
