"""Whole kernels whose times on hardware are published, written at the tile level and timed by the machine.

Each must come within 15 %. The matrix multiplications are 4096 x 8192 (M x K) by 8192 x 8192, 32,768 multiplications of
128 x 128 x 512; a slice of each is timed at two sizes and the difference scaled, so that starts and ends do not count
as many times as the slice fits into the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, IntegerAttr, ModuleOp, i64
from xdsl.ir import Block, Region

from lowering.execute import queue_programs
from lowering.graph_to_tile.builder import KernelBuilder, buffer_type
from lowering.graph_to_tile.view import Buffer, View
from lowering.pipeline import PHASES, run_passes
from neuron_dialects.access import Affine
from neuron_dialects.neuron import Executor, ExecutorAttr, TargetAttr
from neuron_dialects.target import load_target
from runtime.machine import Machine, Timing
from runtime.program_interpreter import INPUT_COUNT

WHOLE = 0.15
K_TILES = 64
MATMULS = 32 * 16 * K_TILES

Spec = tuple[str, tuple[int, ...]]
Body = Callable[[KernelBuilder, Sequence[Buffer]], None]


def timing_of(target: str, inputs: Sequence[Spec], outputs: Sequence[Spec], body: Body) -> Timing:
    """Timing of a kernel: `body` writes tile ops on the DRAM buffers of inputs and outputs."""
    types = [buffer_type(shape, dtype, "dram") for dtype, shape in (*inputs, *outputs)]
    block = Block(arg_types=types)
    builder = KernelBuilder(block, load_target(target))
    body(builder, [builder.adopt(a, s, d) for a, (d, s) in zip(block.args, (*inputs, *outputs), strict=True)])
    block.add_op(func.ReturnOp())
    function = func.FuncOp("neuron_0", FunctionType.from_lists(types, []), Region(block), "private")
    function.attributes |= {
        "neuron.executor": ExecutorAttr(Executor.CORE), INPUT_COUNT: IntegerAttr(len(inputs), i64),
    }  # fmt: skip
    module = ModuleOp([function])
    module.attributes["neuron.target"] = TargetAttr(target)
    run_passes(Context(), module, PHASES[2].passes)
    (program,) = queue_programs(module)
    timing = Machine(program, load_target(target)).run({}, {}, "timing").timing
    assert timing is not None
    return timing


def rows(buffer: Buffer, partition: int | Affine, column: int | Affine, columns: int) -> View:
    """128 rows of a DRAM matrix as [128, columns], from row 128 * `partition`, column `column`."""
    width = buffer.shape[1]
    return View(buffer, Affine(), 0, Affine() + partition * (128 * width) + column, ((width, 128), (1, columns)))


def evict(b: KernelBuilder, out: Buffer, m: int | Affine, column: int | Affine, bank: View, dtype: str) -> None:
    """A bank of results to DRAM."""
    result = b.alloc((128, 512), dtype, "sbuf", 2).view()
    b.copy(result, bank)
    b.store(rows(out, m, column, 512), result)


def tiled(dtype: str) -> Callable[[KernelBuilder, Sequence[Buffer]], None]:
    """Both tiles are loaded for every multiplication."""

    def body(b: KernelBuilder, buffers: Sequence[Buffer]) -> None:
        lhs, rhs, out = buffers
        with b.loop(out.shape[1] // 512) as n:
            bank = b.alloc((128, 512), "f32", "psum", 2).view()
            with b.loop(K_TILES) as k:
                stationary, moving = (b.alloc((128, width), dtype, "sbuf", 4).view() for width in (128, 512))
                b.load(stationary, rows(lhs, k, 0, 128))
                b.load(moving, rows(rhs, k, n * 512, 512))
                b.matmul(bank, stationary, moving, k)
            evict(b, out, 0, n * 512, bank, dtype)

    return body


def hoisted(dtype: str) -> Body:
    """The tiles of the left matrix stay for all columns."""

    def body(b: KernelBuilder, buffers: Sequence[Buffer]) -> None:
        lhs, rhs, out = buffers
        panel = b.alloc((128, K_TILES, 128), dtype, "sbuf").view()
        with b.loop(K_TILES) as k:
            b.load(panel.at(1, k), rows(lhs, k, 0, 128))
        with b.loop(out.shape[1] // 512) as n:
            bank = b.alloc((128, 512), "f32", "psum", 2).view()
            with b.loop(K_TILES) as k:
                moving = b.alloc((128, 512), dtype, "sbuf", 4).view()
                b.load(moving, rows(rhs, k, n * 512, 512))
                b.matmul(bank, panel.at(1, k), moving, k)
            evict(b, out, 0, n * 512, bank, dtype)

    return body


def blocked(dtype: str) -> Body:
    """Blocks of 2 x 2 tiles share their loads over the whole contraction."""

    def body(b: KernelBuilder, buffers: Sequence[Buffer]) -> None:
        lhs, rhs, out = buffers
        with b.loop(out.shape[1] // 1024) as n:
            banks = b.alloc((128, 2, 2, 512), "f32", "psum").view()
            with b.loop(K_TILES) as k:
                stationary = b.alloc((128, 256), dtype, "sbuf", 4).view()
                moving = b.alloc((128, 1024), dtype, "sbuf", 4).view()
                b.load(stationary, rows(lhs, k, 0, 256))
                b.load(moving, rows(rhs, k, n * 1024, 1024))
                with b.loop(2) as i, b.loop(2) as j:
                    left, right = stationary.slice(1, i * 128, 128), moving.slice(1, j * 512, 512)
                    b.matmul(banks.at(1, i).at(1, j), left, right, k)
            for i in range(2):
                for j in range(2):
                    evict(b, out, i, n * 1024 + j * 512, banks.at(1, i).at(1, j), dtype)

    return body


def fully_blocked(dtype: str) -> Body:
    """Blocks of 2048 x 1024 x 1024; partial sums of the contraction's blocks are added up in SBUF."""

    def body(b: KernelBuilder, buffers: Sequence[Buffer]) -> None:
        lhs, rhs, out = buffers
        with b.loop(out.shape[1] // 1024) as n:
            sums = b.alloc((128, 16, 2, 512), "f32", "sbuf").view()
            b.memset(sums, 0.0)
            with b.loop(lhs.shape[0] // 1024) as block:
                stationary = b.alloc((128, 8, 2048), dtype, "sbuf", 2).view()
                moving = b.alloc((128, 8, 1024), dtype, "sbuf", 2).view()
                with b.loop(8) as k:
                    b.load(moving.at(1, k), rows(rhs, block * 8 + k, n * 1024, 1024))
                    b.load(stationary.at(1, k), rows(lhs, block * 8 + k, 0, 2048))
                with b.loop(2) as j, b.loop(16) as i:
                    bank = b.alloc((128, 512), "f32", "psum", 4).view()
                    with b.loop(8) as k:
                        left = stationary.at(1, k).slice(1, i * 128, 128)
                        b.matmul(bank, left, moving.at(1, k).slice(1, j * 512, 512), k)
                    total = sums.at(1, i).at(1, j)
                    b.tensor_tensor(total, total, bank, "add")
            with b.loop(16) as i:
                result = b.alloc((128, 1024), dtype, "sbuf", 2).view()
                b.copy(result, View(sums.buffer, Affine(), 128, sums.at(1, i).offset, ((1, 1024),)))
                b.store(rows(out, i, n * 1024, 1024), result)

    return body


@pytest.mark.parametrize(
    ("kernel", "dtype", "target", "height", "widths", "measured_ms"),
    [
        pytest.param(tiled, "f32", "trn2", 128, (1024, 2048), 39.89, id="tiled, fp32, trn2"),
        pytest.param(hoisted, "f32", "trn2", 128, (1024, 2048), 28.20, id="hoisted loads, fp32, trn2"),
        pytest.param(blocked, "f32", "trn2", 256, (1024, 2048), 28.41, id="blocked, fp32, trn2"),
        pytest.param(fully_blocked, "f32", "trn2", 2048, (1024, 2048), 28.30, id="fully blocked, fp32, trn2"),
        pytest.param(fully_blocked, "bf16", "trn1", 2048, (1024, 2048), 6.97, id="fully blocked, bf16, trn1"),
    ],
)
def test_matmul(
    kernel: Callable[[str], Body], dtype: str, target: str, height: int, widths: tuple[int, int], measured_ms: float
):
    depth = 128 * K_TILES if kernel is not fully_blocked else 1024
    seconds: list[float] = []
    for width in widths:
        inputs = [(dtype, (depth, height)), (dtype, (depth, width))]
        seconds.append(timing_of(target, inputs, [(dtype, (height, width))], kernel(dtype)).total_time)
    matmuls = (widths[1] - widths[0]) * height * depth // (128 * 128 * 512)
    assert (seconds[1] - seconds[0]) * MATMULS / matmuls == pytest.approx(measured_ms * 1e-3, rel=WHOLE)


# A selective scan, 256 channels, 16 states, 512 steps in fp32: for every state of every 128 channels five passes of the
# vector engine over two tensors in SBUF.
def test_mamba():
    channels, states, steps = 256, 16, 512

    def body(b: KernelBuilder, buffers: Sequence[Buffer]) -> None:
        delta, u, a, b_rows, c_rows, out = buffers
        with b.loop(channels // 128) as tile:
            total = b.alloc((128, steps), "f32", "sbuf", 2).view()
            b.memset(total, 0.0)
            with b.loop(states) as state:
                step, value, first, second = (b.alloc((128, steps), "f32", "sbuf", 3).view() for _ in range(4))
                decay = b.alloc((128, 1), "f32", "sbuf", 3).view()
                b.load(step, rows(delta, tile, 0, steps))
                b.load(value, rows(u, tile, 0, steps))
                b.load(decay, rows(a, tile, state, 1))
                for row, table in ((first, b_rows), (second, c_rows)):
                    b.load(row, View(table, Affine(), 0, state * steps, ((0, 128), (1, steps))))
                kept, fed = (b.alloc((128, steps), "f32", "sbuf", 2).view() for _ in range(2))
                b.activation(kept, step, "exp", scale=decay)
                b.tensor_tensor(fed, step, value, "multiply")
                b.tensor_tensor(fed, fed, first, "multiply")
                scanned = b.alloc((128, steps), "f32", "sbuf", 2).view()
                b.emit("scan", {"dst": scanned, "data": kept, "other": fed}, {"op0": "multiply", "op1": "add"})
                b.tensor_tensor(scanned, scanned, second, "multiply")
                b.tensor_tensor(total, total, scanned, "add")
            b.store(rows(out, tile, 0, steps), total)

    shapes = [(channels, steps), (channels, steps), (channels, states), (states, steps), (states, steps)]
    timing = timing_of("trn1", [("f32", shape) for shape in shapes], [("f32", (channels, steps))], body)
    assert timing.engines["dve"].active_time == pytest.approx(148.99e-6, rel=WHOLE)
    assert timing.total_time == pytest.approx(172.93e-6, rel=WHOLE)
