"""`neuron-opt --verify-numerics`: bugs planted in passes of the default pipeline are found, and the pass is named."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation
from xdsl.parser import Parser
from xdsl.rewriter import Rewriter

from lowering.numerics import (
    FLOAT_BUDGET,
    PROGRAM_BUDGET,
    ProgramProbe,
    budget,
    compare_results,
    first_changed_node,
    random_weights,
)
from neuron_dialects.graph import BinaryKind, BinaryOp, ConstantOp, SoftmaxOp, UnaryOp
from neuron_dialects.neuron import WEIGHTS_ATTRIBUTE
from neuron_dialects.nisa import AllocOp, SyncAttr
from neuron_dialects.universe import NEURON_UNIVERSE
from tools.module_file import make_context
from tools.neuron_opt import run_in_process

NET = """\
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<2x8x6x6xf32>) -> tensor<2x10xf32> {
    %w = graph.weight @w : tensor<16x8x3x3xf32>
    %scale = graph.weight @scale : tensor<16xf32>
    %bias = graph.weight @bias : tensor<16xf32>
    %mean = graph.weight @mean : tensor<16xf32>
    %variance = graph.weight @variance : tensor<16xf32>
    %fc = graph.weight @fc : tensor<16x10xf32>
    %half = graph.constant 0.5 : tensor<f32>
    %0 = graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1
      : (tensor<2x8x6x6xf32>, tensor<16x8x3x3xf32>) -> tensor<2x16x6x6xf32> loc("conv")
    %1 = graph.batch_norm %0, %scale, %bias, %mean, %variance epsilon 1.0e-05
      : (tensor<2x16x6x6xf32>, tensor<16xf32>, tensor<16xf32>, tensor<16xf32>, tensor<16xf32>)
      -> tensor<2x16x6x6xf32> loc("norm")
    %2 = graph.unary sigmoid %1 : (tensor<2x16x6x6xf32>) -> tensor<2x16x6x6xf32> loc("sigmoid")
    %3 = graph.reduce mean %2 axes [2, 3] : (tensor<2x16x6x6xf32>) -> tensor<2x16xf32> loc("mean")
    %4 = graph.matmul %3, %fc : (tensor<2x16xf32>, tensor<16x10xf32>) -> tensor<2x10xf32> loc("fc")
    %5 = graph.binary mul %4, %half : (tensor<2x10xf32>, tensor<f32>) -> tensor<2x10xf32> loc("scale")
    %6 = graph.softmax %5 axis 1 : (tensor<2x10xf32>) -> tensor<2x10xf32> loc("softmax")
    func.return %6 : tensor<2x10xf32>
  }
}
"""


def parse(text: str) -> ModuleOp:
    return Parser(make_context(), text).parse_module()


def ops(module: ModuleOp, kind: type[Operation] | str) -> Iterator[Operation]:
    """The operations of a class or name."""
    return (op for op in module.walk() if (op.name == kind if isinstance(kind, str) else isinstance(op, kind)))


def wrong_fold(module: ModuleOp) -> None:
    """The folded scale is multiplied with the deviation instead of divided by it."""
    division = next(op for op in ops(module, BinaryOp) if isinstance(op, BinaryOp) and op.kind.data == BinaryKind.DIV)
    Rewriter.replace_op(division, BinaryOp(BinaryKind.MUL, division.operands[0], division.operands[1]))


def wrong_axis(module: ModuleOp) -> None:
    softmax = next(ops(module, SoftmaxOp))
    wrong = SoftmaxOp(softmax.operands[0], axis=0)
    wrong.location = softmax.location
    Rewriter.replace_op(softmax, wrong)


def dropped_op(module: ModuleOp) -> None:
    sigmoid = next(ops(module, UnaryOp))
    Rewriter.replace_op(sigmoid, [], [sigmoid.operands[0]])


def wrong_constant(module: ModuleOp) -> None:
    half = next(op for op in ops(module, ConstantOp) if isinstance(op, ConstantOp) and op.array() == 0.5)
    Rewriter.replace_op(half, ConstantOp(np.float32(0.25)))


def wrong_operand(module: ModuleOp) -> None:
    """The activation in front of the softmax adds the first buffer of the right size that comes by."""
    *_, activation = (op for op in ops(module, "nisa.activation") if len(op.operands) == 3)
    *first, bias = activation.operands
    allocated = (op.results[0] for op in ops(module, AllocOp) if op.results[0].type == bias.type)
    activation.operands = [*first, next(buffer for buffer in allocated if buffer is not bias)]


def overlapping_buffers(module: ModuleOp) -> None:
    """Every buffer of SBUF begins where SBUF begins."""
    for alloc in ops(module, AllocOp):
        assert isinstance(alloc, AllocOp)
        if alloc.address is not None and "sbuf" in str(alloc.buffer.type):
            alloc.properties["address"] = next(ops(module, AllocOp)).properties["address"]


def dropped_waits(module: ModuleOp) -> None:
    """The queues run without waiting for each other."""
    for op in module.walk():
        op.properties = {name: value for name, value in op.properties.items() if not isinstance(value, SyncAttr)}


BUGS: list[tuple[str, Callable[[ModuleOp], None]]] = [
    ("graph-fold-batch-norm", wrong_fold),
    ("graph-canonicalize", wrong_axis),
    ("graph-fuse", dropped_op),
    ("graph-lift-scales", wrong_constant),
    ("convert-tile-to-nisa", wrong_operand),
    ("nisa-allocate", overlapping_buffers),
    ("nisa-split-queues", dropped_waits),
]


def plant(monkeypatch: pytest.MonkeyPatch, name: str, bug: Callable[[ModuleOp], None]) -> None:
    """Let the pass do its work, and then the bug."""
    correct = NEURON_UNIVERSE.all_passes[name]()

    class Planted(correct):
        def apply(self, ctx: Context, op: ModuleOp) -> None:
            correct.apply(self, ctx, op)
            bug(op)

    monkeypatch.setitem(NEURON_UNIVERSE.all_passes, name, lambda: Planted)


@pytest.mark.parametrize(("name", "bug"), BUGS, ids=lambda value: getattr(value, "__name__", value))
def test_planted_bugs_are_found(name: str, bug: Callable[[ModuleOp], None], monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch, name, bug)
    # The program verifies all the same: nothing but the numbers tells.
    result = run_in_process(["-p", "default", "--verify-numerics"], NET)
    assert result.exit_code == 1
    (found,) = re.findall(r"error\[NX-PASS-003\]: (?:node '\w+': )?pass '([\w-]+)' \(\d+\)", result.stderr)
    assert found == name
    assert f"--print-ir-after={name}" in result.stderr


# Without a bug, no pass is blamed, on either generation, and the report has a line for each pass.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
def test_correct_passes_keep_results(target: str):
    result = run_in_process(["-p", "default", "--verify-numerics"], NET.replace("trn1", target))
    assert result.exit_code == 0
    assert re.search(r"^  [\d.e-]+  3e-02  graph-auto-cast$", result.stderr, re.MULTILINE)
    assert re.search(r"^  0.00e\+00  2e-03  nisa-allocate$", result.stderr, re.MULTILINE)


# The first node that went wrong is named, not those behind it; the worst element is shown.
def test_the_node_is_named(monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch, "graph-canonicalize", wrong_axis)
    result = run_in_process(["-p", "graph-canonicalize", "--verify-numerics"], NET)
    assert "  note: first node whose values differ: 'softmax'\n" in result.stderr
    assert re.search(r"note: largest difference at \[\d, \d\]: [\d.e-]+ before, [\d.e-]+ after", result.stderr)
    assert "stdin:19:5: error[NX-PASS-003]: node 'softmax'" in result.stderr


# A tolerance given by the user counts instead of the budget; seeds give other inputs.
def test_options(monkeypatch: pytest.MonkeyPatch):
    strict = run_in_process(["-p", "to-graph", "--verify-numerics", "--numerics-tolerance=1e-5"], NET)
    assert strict.exit_code == 1 and "pass 'graph-auto-cast'" in strict.stderr
    other = run_in_process(
        ["-p", "to-graph", "--verify-numerics", "--numerics-tolerance=1e-5", "--numerics-seed=1"], NET
    )
    assert "--numerics-seed 1" in other.stderr and other.stderr != strict.stderr
    plant(monkeypatch, "graph-canonicalize", wrong_axis)
    lax = run_in_process(["-p", "graph-canonicalize", "--verify-numerics", "--numerics-tolerance=10"], NET)
    assert lax.exit_code == 0


# Programs that begin below the graph level, without @main: the functions are run on their own.
def test_programs_without_main(monkeypatch: pytest.MonkeyPatch):
    lowered = run_in_process(["-p", "to-tile"], NET).stdout
    without_main = re.sub(r"  func.func @main.*?\n  }\n", "", lowered, flags=re.DOTALL)
    result = run_in_process(["-p", "tile-to-nisa", "--verify-numerics"], without_main)
    assert result.exit_code == 0 and "nisa-allocate" in result.stderr
    plant(monkeypatch, "convert-tile-to-nisa", wrong_operand)
    result = run_in_process(["-p", "tile-to-nisa", "--verify-numerics"], without_main)
    assert result.exit_code == 1 and "output '@neuron_0 output0'" in result.stderr


# A weight without dimensions is a buffer of one element below the graph level, on the machine too.
def test_scalar_weights():
    scalar = NET.replace("%half = graph.constant 0.5", "%half = graph.weight @half")
    result = run_in_process(["-p", "default", "--verify-numerics"], scalar)
    assert (result.exit_code, "graph.weight @half" in scalar) == (0, True), result.stderr


# The weights beside the module are used; those of a file that is not there are drawn.
def test_weights_of_the_module(tmp_path: Path):
    module = parse(NET)
    store = random_weights(module, seed=5)
    store.save_safetensors(tmp_path / "m.safetensors")
    expected = ProgramProbe(module).run(module)
    module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr(str(tmp_path / "m.safetensors"))
    stored = ProgramProbe(module).run(module)
    assert not np.allclose(stored[0], expected[0])
    module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr(str(tmp_path / "absent.safetensors"))
    assert np.array_equal(ProgramProbe(module).run(module)[0], expected[0])


def test_nothing_to_run():
    result = run_in_process(["-p", "dce", "--verify-numerics"], "func.func private @f(i32)")
    assert result.exit_code == 1 and result.stderr.startswith("error[NX-IR-002]")


# The budget follows the narrowest float type on either side; between programs there is next to none.
def test_budgets():
    wide, narrow = (
        parse(
            f"func.func @f(%x: tensor<4x{t}>) {{ %y = graph.unary relu %x : (tensor<4x{t}>) -> tensor<4x{t}>"
            " func.return }"
        )
        for t in ("f32", "bf16")
    )
    assert budget(wide, wide) == FLOAT_BUDGET
    assert budget(wide, narrow) == budget(narrow, wide) == 2**-5
    tile, wide_tile = (
        parse(
            f"func.func @f(%x: memref<4x{kind}, #neuron.space<dram>>) {{ %y = tile.alloc : memref<4x{kind}, "
            "#neuron.space<sbuf>> func.return }"
        )
        for kind in ("bf16", "f32")
    )
    assert budget(narrow, tile) == 2**-5 and budget(tile, tile) == 2**-9
    assert budget(wide_tile, wide_tile) == PROGRAM_BUDGET


# NaN and infinity that were there before are no change; new ones are; so are missing outputs and elements.
def test_comparison():
    nan, inf = np.nan, np.inf
    old = [np.array([1.0, nan, inf]), np.array([[1, 2], [3, 4]])]
    same = compare_results(["a", "b"], old, [old[0].copy(), old[1].reshape(4)])
    assert same is not None and same.rel_l2_error == 0
    moved = compare_results(["a", "b"], old, [old[0], np.array([[1, 2], [3, 7]])])
    assert moved is not None and (moved.output, moved.index, moved.before, moved.after) == ("b", (1, 1), 4, 7)
    for worse in ([np.array([nan, nan, inf]), old[1]], [old[0], old[1][:1]], old[:1]):
        found = compare_results(["a", "b"], old, worse)
        assert found is not None and found.rel_l2_error == inf


def test_first_changed_node():
    before = {"a": np.ones(3), "b": np.ones(3), "c": np.ones(2)}
    assert first_changed_node(before, {"a": np.ones(3), "b": np.zeros(3), "c": np.zeros(2)}, 0.1) == "b"
    assert first_changed_node(before, {"a": np.ones(3), "b": np.zeros(2)}, 0.1) is None


# A cast may cost three times what rounding inputs and weights costs; a pass that casts no further gets nothing for it.
def test_cast_floor():
    wide = parse(NET)
    probe = ProgramProbe(wide)
    narrow = parse(neuron_opt_output("to-graph"))
    floor = probe.cast_floor(wide, narrow)
    assert 1e-4 < floor < 2e-2
    assert probe.cast_floor(narrow, narrow) == probe.cast_floor(wide, wide) == 0.0
    # Nothing is left rounded behind.
    assert np.array_equal(probe.run(wide)[0], probe.results[0])


def neuron_opt_output(passes: str) -> str:
    return run_in_process(["-p", passes], NET).stdout
