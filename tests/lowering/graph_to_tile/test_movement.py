"""Data movement on the core against numpy: every route of a copy, every operator, on every target."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region

from lowering.graph_to_tile.builder import KernelBuilder, buffer_type
from lowering.graph_to_tile.copy_plan import (
    DirectPlan,
    TilePlan,
    TransposePlan,
    candidates,
    joint_axes,
    plan_copy,
)
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.movement import materialize, transposed_copy
from lowering.graph_to_tile.relayout import copy_task, copy_window, emit_plan, fill_window
from lowering.graph_to_tile.tensors import DramTensor
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import (
    BroadcastOp,
    ConcatOp,
    MatMulOp,
    PadMode,
    PadOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
)
from neuron_dialects.isa import verify_instruction
from neuron_dialects.neuron import TargetAttr
from neuron_dialects.target import load_target
from neuron_dialects.tile import TileOp
from runtime.program_interpreter import run_function
from tests.graph_level import no_weights
from tests.lowering.graph_to_tile.core_kernel import (
    Array,
    Make,
    check_instructions,
    core_module,
    instruction_of,
    lowered,
    resident,
    tile_ops,
)

TARGETS = ("inf1", "trn1", "trn2")
DTYPES = ("f32", "bf16", "f16", "i32", "i8", "i1", "i64")


def numbers(shape: Sequence[int], dtype: str = "f32", seed: int = 0) -> Array:
    """Random integers within [-100, 100), exact in every element type."""
    return np.random.default_rng(seed).integers(-100, 100, shape).astype(dtype_by_name(dtype).numpy)


class Bench:
    """A tile function of one input and one output buffer, for kernels that are not graph ops."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], dtype: str, target: str = "trn1"):
        self.types = [buffer_type(tuple(shape), dtype, "dram") for shape in (inputs, outputs)]
        self.block = Block(arg_types=self.types)
        module = ModuleOp([], attributes={"neuron.target": TargetAttr(target)})
        self.k = Kernel(KernelBuilder(self.block, load_target(target)), load_target(target), module)
        self.x, self.y = (
            DramTensor.dense(self.k.b.adopt(value, tuple(shape), dtype))
            for value, shape in zip(self.block.args, (inputs, outputs), strict=True)
        )

    def run(self, x: Array) -> Array:
        self.block.add_op(ReturnOp())
        function = FuncOp("f", (self.types, []), Region(self.block))
        function.attributes["neuron.input_count"] = IntegerAttr(1, i64)
        function.verify()
        for op in tile_ops(function):
            assert verify_instruction(instruction_of(op, self.k.target), self.k.target) == [], str(op)
        return run_function(function, [x], no_weights)[0]


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[int], list[int], list[tuple[int, int, int]]]:
    """A shape, a permutation of it, and for each dimension of the permuted tensor (start, size, step) of a slice."""
    sizes = st.sampled_from([1, 2, 3, 5, 8, 20, 65, 130, 200])
    shape = draw(st.lists(sizes, min_size=1, max_size=6).filter(lambda s: int(np.prod(s)) <= 40_000))
    permutation = draw(st.permutations(range(len(shape))))
    slices: list[tuple[int, int, int]] = []
    for d in permutation:
        step = draw(st.sampled_from([1, 1, 1, 1, 2, -1, -3, 9]))
        size = draw(st.integers(1, (shape[d] - 1) // abs(step) + 1)) if step != 1 else shape[d]
        slices.append((0 if step > 0 else (size - 1) * -step, size, step))
    return shape, list(permutation), slices


def sliced(x: Array, slices: Sequence[tuple[int, int, int]]) -> Array:
    """numpy's reading of (start, size, step) per dimension."""
    for axis, (start, size, step) in enumerate(slices):
        x = np.take(x, start + step * np.arange(size), axis)
    return x


# Every route gives the same bytes: one DMA, tiles with each axis on the partitions and each split, the tensor engine.
@settings(max_examples=60)
@given(windows(), st.sampled_from(TARGETS), st.sampled_from(DTYPES))
def test_every_route_copies_right(window: Any, target: str, dtype: str):
    shape, permutation, slices = window
    x = numbers(shape, dtype)
    expected = sliced(x.transpose(permutation), slices)
    bench = Bench(shape, expected.shape, dtype, target)
    source = bench.x.transpose(permutation).slice(*zip(*slices, strict=True))
    for plan in candidates(copy_task(bench.y, source, bench.k.target, 600)):
        bench = Bench(shape, expected.shape, dtype, target)
        task = copy_task(bench.y, source, bench.k.target, 600)
        emit_plan(bench.k, task, plan, bench.y, replace(source, buffer=bench.x.buffer))
        np.testing.assert_array_equal(bench.run(x), expected, err_msg=str(plan))


# The cheapest route repeats, reverses and skips as numpy does.
@settings(max_examples=60)
@given(windows(), st.sampled_from(TARGETS), st.integers(0, 2))
def test_broadcast_windows(window: Any, target: str, lead: int):
    shape, permutation, slices = window
    x = numbers(shape)
    permuted = sliced(x.transpose(permutation), slices)
    wide = (*([3, 2][:lead]), *(4 if size == 1 else size for size in permuted.shape))
    bench = Bench(shape, wide, "f32", target)
    source = bench.x.transpose(permutation).slice(*zip(*slices, strict=True)).broadcast(wide)
    copy_window(bench.k, source, bench.y)
    np.testing.assert_array_equal(bench.run(x), np.broadcast_to(permuted, wide))


# A fill sets every element of a strided window and nothing else.
@settings(max_examples=40)
@given(windows(), st.sampled_from(TARGETS), st.sampled_from(["f32", "bf16", "i32", "i8"]))
def test_fill(window: Any, target: str, dtype: str):
    shape, permutation, slices = window
    slices = [(min(start, start + (size - 1) * step), size, abs(step)) for start, size, step in slices]
    bench = Bench(shape, shape, dtype, target)
    materialize(bench.k, bench.x, bench.y)
    fill_window(bench.k, bench.y.transpose(permutation).slice(*zip(*slices, strict=True)), 7.0)
    x = numbers(shape, dtype)
    expected = x.copy()
    view = expected.transpose(permutation)
    view[np.ix_(*(start + step * np.arange(size) for start, size, step in slices))] = 7
    np.testing.assert_array_equal(bench.run(x), expected)


# Joining dimensions: a dense copy is one run whatever its rank; a transpose keeps what moves together together.
def test_joint_axes():
    assert len(joint_axes((4, 5, 6), (30, 6, 1), (30, 6, 1))) == 1
    assert [a.size for a in joint_axes((2, 5, 7, 3), (105, 21, 3, 1), (105, 7, 1, 35))] == [2, 35, 3]
    assert [a.size for a in joint_axes((1, 1), (1, 1), (0, 0))] == [1]
    assert [(a.size, a.source) for a in joint_axes((4, 5), (5, 1), (0, 0))] == [(20, 0)]


def route(shape: Sequence[int], permutation: Sequence[int], dtype: str, target: str) -> Any:
    """The plan for a dense copy of a transposed tensor."""
    wide = [shape[d] for d in permutation]
    bench = Bench(shape, wide, dtype, target)
    window = bench.x.transpose(permutation)
    return plan_copy(copy_task(bench.y, window, bench.k.target, bench.k.row_budget_elements))


# Which route is cheapest follows from the cost model.
def test_routes():
    # Runs of 256 bytes survive: the DMA alone is as fast as anything.
    assert isinstance(route((1, 12, 128, 64), (0, 2, 1, 3), "f32", "trn1"), DirectPlan)
    # A large matrix: through the array where that is exact, else by an engine that rearranges rows within partitions.
    assert isinstance(route((1024, 1024), (1, 0), "f32", "trn1"), TransposePlan)
    assert isinstance(route((1024, 1024), (1, 0), "f32", "inf1"), TilePlan)
    assert isinstance(route((1024, 1024), (1, 0), "bf16", "trn1"), TransposePlan)
    assert isinstance(route((1024, 1024), (1, 0), "i32", "trn1"), TilePlan)
    # Three channels behind 50,176 pixels: each partition turns its own pixels.
    plan = route((50176, 3), (1, 0), "f32", "trn1")
    assert isinstance(plan, TilePlan)
    assert plan.rearranges


# The estimates order the routes of a large transpose as their descriptors demand: element by element is slowest by far.
def test_element_descriptors_are_avoided():
    bench = Bench((1024, 1024), (1024, 1024), "f32")
    task = copy_task(bench.y, bench.x.transpose([1, 0]), bench.k.target, bench.k.row_budget_elements)
    times = {type(plan).__name__: plan.nanoseconds for plan in sorted(candidates(task), key=lambda p: -p.nanoseconds)}
    assert times["DirectPlan"] > 10 * times["TransposePlan"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "i32"])
@pytest.mark.parametrize("shape", [(200, 300), (3, 70, 600), (2, 130, 1100)])
def test_transposed_copy(shape: tuple[int, ...], dtype: str, target: str):
    turned = (*shape[:-2], shape[-1], shape[-2])
    bench = Bench(shape, turned, dtype, target)
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    transposed_copy(bench.k, bench.x.transpose(order), bench.y)
    x = numbers(shape, dtype)
    np.testing.assert_array_equal(bench.run(x), x.transpose(order))


# NaN and infinity pass: nothing on the way computes.
def test_special_values_survive():
    x = numbers((300, 200))
    x[::3, ::7], x[1::5, ::3], x[2::9] = np.nan, np.inf, -0.0
    for target in TARGETS:
        bench = Bench((300, 200), (200, 300), "f32", target)
        copy_window(bench.k, bench.x.transpose([1, 0]), bench.y)
        assert bench.run(x).tobytes() == np.ascontiguousarray(x.T).tobytes()


# The operators


def check(make: Make, inputs: Sequence[Array], *expected: Array, target: str = "trn1") -> list[str]:
    """Lower, run, compare bit by bit; returns the names of the tile ops in order."""
    module, _ = core_module(make, inputs, target)
    function = lowered(module)
    check_instructions(function, load_target(target))
    outputs = run_function(function, [np.atleast_1d(x) for x in inputs], no_weights)
    assert len(outputs) == len(expected)
    for output, want in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, np.atleast_1d(want))
        assert output.dtype == want.dtype
    return ["copy_dram" if is_dram_copy(op) else op.name.removeprefix("tile.") for op in tile_ops(function)]


def is_dram_copy(op: TileOp) -> bool:
    """Whether the op moves elements from DRAM to DRAM."""
    return op.name == "tile.load" and all(pattern.is_dram for _, pattern in op.access.data)


def relu(x: Any) -> UnaryOp:
    """A reader, so that a value is not a function output itself."""
    return UnaryOp(UnaryKind.RELU, x)


@pytest.mark.parametrize("target", TARGETS)
def test_reshape(target: str):
    x = numbers((4, 6))
    assert check(lambda x: ReshapeOp(x, (2, 12)), [x], x.reshape(2, 12), target=target) == ["copy_dram"]


# A reshape after a transpose cannot be a window: one copy, straight into the output.
def test_reshape_of_transposed():
    x = numbers((1, 12, 64, 32))
    names = check(
        lambda x: ReshapeOp(TransposeOp(x, (0, 2, 1, 3)), (64, 384)), [x], x.transpose(0, 2, 1, 3).reshape(64, 384)
    )
    assert names == ["copy_dram"]


def test_scalar_reshape():
    check(lambda x: ReshapeOp(x, (1, 1)), [numbers(())], numbers(()).reshape(1, 1))
    check(lambda x: ReshapeOp(x, ()), [numbers((1, 1))], numbers((1, 1)).reshape(()))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i64", "i1"])
@pytest.mark.parametrize(
    ("shape", "permutation"),
    [
        ((300, 200), (1, 0)),
        ((2, 3, 40, 50), (0, 2, 3, 1)),
        ((2, 40, 50, 3), (0, 3, 1, 2)),
        ((5, 6, 7, 8, 3), (3, 1, 4, 0, 2)),
    ],
)
def test_transpose(shape: tuple[int, ...], permutation: tuple[int, ...], dtype: str, target: str):
    x = numbers(shape, dtype)
    check(lambda x: TransposeOp(x, permutation), [x], x.transpose(permutation), target=target)


# Read by a matmul: either order of the last two dimensions is good for that, so nothing is copied on the way.
def test_transpose_for_matmul_is_a_window():
    a, b = numbers((2, 128, 64)), numbers((2, 256, 64))
    module, _ = core_module(lambda a, b: MatMulOp(a, TransposeOp(b, (0, 2, 1))), [a, b])
    function = lowered(module)
    assert not any(op.name == "tile.alloc" and "dram" in str(op.results[0].type) for op in function.walk())
    np.testing.assert_array_equal(run_function(function, [a, b], no_weights)[0], a @ b.transpose(0, 2, 1))


# Read by anything else it is copied once instead of read element by element.
def test_transpose_for_others_is_copied():
    x = numbers((512, 256))
    names = check(lambda x: relu(TransposeOp(x, (1, 0))), [x], np.maximum(x.T, 0))
    assert "transpose" in names


# A transpose that keeps its runs is read where it lies.
def test_transpose_of_rows_is_a_window():
    x = numbers((4, 12, 64))
    names = check(lambda x: relu(TransposeOp(x, (1, 0, 2))), [x], np.maximum(x.transpose(1, 0, 2), 0))
    assert names.count("load") == names.count("store") == 1


@pytest.mark.parametrize("target", TARGETS)
def test_slices(target: str):
    x = numbers((100, 64))
    check(
        lambda x: [SliceOp(x, (0, 63), (100, 32), (1, -2)), SliceOp(x, (10, 4), (3, 60), (30, 1))],
        [x], x[:, :0:-2], x[10:100:30, 4:], target=target,
    )  # fmt: skip


# A slice that a reader takes is a window: nothing but the reader's own load and store.
def test_slice_is_a_window():
    x = numbers((128, 256))
    names = check(lambda x: relu(SliceOp(x, (0, 128), (128, 128), (1, 1))), [x], np.maximum(x[:, 128:], 0))
    assert names.count("load") == names.count("store") == 1


@pytest.mark.parametrize("target", TARGETS)
def test_broadcast(target: str):
    x, y = numbers((3, 1, 5)), numbers((200, 1), "bf16")
    wide = np.broadcast_to(x, (2, 3, 4, 5))

    def make(x: Any, y: Any) -> list[Any]:
        repeated = BroadcastOp(x, (2, 3, 4, 5))
        return [repeated, BroadcastOp(y, (200, 300)), ReshapeOp(repeated, (24, 5))]

    check(make, [x, y], wide, np.broadcast_to(y, (200, 300)), wide.reshape(24, 5), target=target)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat(axis: int):
    shapes = [[4, 3, 130], [4, 3, 130], [4, 3, 130]]
    shapes[1][axis], shapes[2][axis] = 5, 1
    xs = [numbers(shape, seed=seed) for seed, shape in enumerate(shapes)]
    names = check(lambda *xs: ConcatOp(xs, axis), xs, np.concatenate(xs, axis))
    assert names == ["copy_dram"] * 3


# The same operand twice, a slice and a transposed one: each is read where it lies.
def test_concat_of_windows():
    a, b = numbers((30, 20)), numbers((20, 40))

    def make(a: Any, b: Any) -> ConcatOp:
        turned = TransposeOp(a, (1, 0))
        return ConcatOp([turned, SliceOp(b, (0, 39), (20, 20), (1, -2)), turned], 1)

    check(make, [a, b], np.concatenate([a.T, b[:, ::-2], a.T], 1))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", list(PadMode))
@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [
        ((7,), (3,), (2,)),
        ((2, 3, 20, 30), (0, 0, 1, 2), (0, 0, 3, 0)),
        ((150, 5), (1, 0), (0, 4)),
        ((3, 4), (0, 0), (0, 0)),
    ],
)
def test_pad(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...], mode: PadMode, target: str):
    x = numbers(shape)
    extra: dict[str, Any] = {"constant_values": -1.5} if mode is PadMode.CONSTANT else {}
    want = np.pad(x, list(zip(low, high, strict=True)), mode=mode.value, **extra)
    check(lambda x: PadOp(x, low, high, mode=mode, value=-1.5), [x], want, target=target)


# A padding value with a fraction is cut off for integers, as ONNX does.
def test_pad_integers():
    x = numbers((4,), "i32")
    check(lambda x: PadOp(x, (1,), (1,), value=2.5), [x], np.pad(x, 1, constant_values=2))


# Movement only: every element type passes, also those that no engine computes with.
@pytest.mark.parametrize("dtype", DTYPES)
def test_element_types(dtype: str):
    x = numbers((40, 50), dtype)

    def make(x: Any) -> ConcatOp:
        turned = TransposeOp(x, (1, 0))
        return ConcatOp([turned, turned], 0)

    check(make, [x], np.concatenate([x.T, x.T]))


# An argument that is returned as it is, and a window on one, are copied into their outputs.
def test_outputs_are_written():
    x = numbers((20, 30))
    check(lambda x: [x, TransposeOp(x, (1, 0)), x], [x], x, x.T, x)


# A producer writes where its value ends up: into its part of a concatenation, through a reshape, into the output.
def test_results_are_computed_in_place():
    a, b = numbers((1, 64, 100)), numbers((1, 30, 100), seed=1)

    def make(a: Any, b: Any) -> list[Any]:
        joined = ConcatOp([relu(a), ReshapeOp(relu(b), (1, 30, 100)), a], 1)
        return [ReshapeOp(joined, (158, 100)), ReshapeOp(relu(joined), (15800,))]

    want = np.concatenate([np.maximum(a, 0), np.maximum(b, 0), a], 1)
    names = check(make, [a, b], want.reshape(158, 100), np.maximum(want, 0).reshape(-1))
    assert names.count("copy_dram") == 1  # The argument; everything else is stored where it belongs.


# Nested concatenations, an operand in two of them, one that is also a result: each is right, whoever comes first.
def test_concat_of_concat():
    a, b = numbers((1, 3, 50)), numbers((1, 4, 50), seed=1)

    def make(a: Any, b: Any) -> list[Any]:
        first, second = relu(a), relu(b)
        inner = ConcatOp([first, second], 1)
        return [ConcatOp([inner, first, inner], 1), second, relu(inner)]

    first, second = np.maximum(a, 0), np.maximum(b, 0)
    inner = np.concatenate([first, second], 1)
    check(make, [a, b], np.concatenate([inner, first, inner], 1), second, inner)


# Parts that interleave in memory are computed in place where their runs are long: 5 * 32 * 4 and 6 * 32 * 4 bytes.
def test_long_interleaved_parts_are_computed_in_place():
    a, b = numbers((3, 5, 32)), numbers((3, 6, 32), seed=1)

    def make(a: Any, b: Any) -> list[Any]:
        joined = ConcatOp([relu(a), relu(b)], 1)
        return [relu(joined), joined]

    want = np.concatenate([np.maximum(a, 0), np.maximum(b, 0)], 1)
    assert check(make, [a, b], want, want).count("copy_dram") == 0


# Parts of short runs are not forwarded: their producers would wait for each other.
def test_interleaved_parts_are_copied():
    a, b = numbers((8, 16)), numbers((8, 16), seed=1)
    names = check(
        lambda a, b: ConcatOp([relu(a), relu(b)], 1), [a, b], np.concatenate([np.maximum(a, 0), np.maximum(b, 0)], 1)
    )
    assert names.count("copy_dram") == 2


# Tensors that stay on chip


# Reshapes that keep the partition dimension and transposes that keep the others in order rename the resident tensor.
def test_resident_windows():
    x = numbers((1, 200, 4, 5))

    def make(x: Any) -> list[Any]:
        held = resident(relu(x), 1)
        return [relu(ReshapeOp(held, (200, 20))), relu(TransposeOp(held, (0, 2, 3, 1)))]

    want = np.maximum(x, 0)
    names = check(make, [x], want.reshape(200, 20), want.transpose(0, 2, 3, 1))
    assert names[0] == "load"
    assert names.count("load") == 2  # One for the full tile of 128 partitions, one for the remaining 72.


# Resident results: loaded into their tiles, whatever the window that they come from.
@pytest.mark.parametrize("partition", [0, 1])
def test_resident_results(partition: int):
    x = numbers((150, 300))

    def make(x: Any) -> list[Any]:
        turned = resident(TransposeOp(x, (1, 0)), partition)
        every_second = resident(SliceOp(x, (0, 0), (150, 150), (1, 2)), partition)
        repeated = resident(BroadcastOp(SliceOp(x, (0, 0), (150, 1), (1, 1)), (150, 140)), partition)
        padded = resident(PadOp(x, (1, 2), (0, 0), value=3.0), partition)
        return [relu(value) for value in (turned, every_second, repeated, padded)]

    repeated = np.broadcast_to(x[:, :1], (150, 140))
    padded = np.pad(x, [(1, 0), (2, 0)], constant_values=3.0)
    check(make, [x], *(np.maximum(y, 0) for y in (x.T, x[:, ::2], repeated, padded)))


# A concatenation on chip: parts that start and end within tiles of 128 partitions, and along another dimension.
@pytest.mark.parametrize(("partition", "axis"), [(0, 0), (1, 1), (1, 0), (0, 1)])
def test_resident_concat(partition: int, axis: int):
    sizes = [(100, 70), (300, 70), (20, 70)] if axis == 0 else [(70, 100), (70, 300), (70, 20)]
    xs = [numbers(shape, seed=seed) for seed, shape in enumerate(sizes)]
    check(lambda *xs: relu(resident(ConcatOp(xs, axis), partition)), xs, np.maximum(np.concatenate(xs, axis), 0))


# A product reads results of steps, hidden units first, as rows of hidden units: turned and reshaped, but not copied.
def test_a_product_reads_a_reshaped_window_where_it_lies() -> None:
    rng = np.random.default_rng(0)
    y, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((256, 8, 64), (256, 32)))

    def make(states: Any, weights: Any) -> Any:
        rows = ReshapeOp(TransposeOp(states, (1, 2, 0)), (8 * 64, 256))
        return MatMulOp(rows, weights)

    module, _ = core_module(make, [y, w])
    function = lowered(module)
    stored = [op for op in tile_ops(function) if op.name == "tile.store"]
    assert {op.operands[0].owner for op in stored} == {function.body.block}
    (have,) = run_function(function, [y, w], no_weights)
    np.testing.assert_allclose(have, y.transpose(1, 2, 0).reshape(512, 256) @ w, rtol=1e-4, atol=1e-4)
