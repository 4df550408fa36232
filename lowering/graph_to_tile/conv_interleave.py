"""Where the phases of a transposed convolution write: interleaved on chip, not element by element in DRAM.

Each phase yields every stride-th position of the result. A resident result is written in place, with strides. A result
in DRAM is put together in SBUF, some rows of all phases at a time, and stored in whole rows. Phases that differ in the
row alone may leave their channels beside each other there.
"""

from collections.abc import Iterator, Sequence
from math import prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.conv_phases import Phase, phase_rows, rows_beside, spatial_part
from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from lowering.graph_to_tile.transfers import store_beside, store_in_pieces, write_out
from lowering.graph_to_tile.view import Buffer, View
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import ConvOp, ConvTransposeOp, shape_of

STAGED_SHARE = 24
"""The rows of a result that are put together take at most this part (one over it) of SBUF."""

STAGED_COPIES = 3
"""Buffers for such rows that are used in turn: some are stored while others are put together."""

Staged = dict[SSAValue, tuple[SbufTensor, DramTensor]]
"""Result -> (rows on chip, all of it in DRAM)."""


def interleaved(k: Kernel, epilogue: Epilogue, phases: Sequence[Phase], n: int) -> Iterator[tuple[Phase, Epilogue]]:
    """The plain convolutions to run, in order, each with the epilogue that writes its part of the result.

    `n`: spatial dimensions. What was put together is stored when the caller comes back for the next convolution.
    """
    shape = epilogue.shape
    height = 3 if n == 3 else 2
    step, total = phases[0].step[1], max(phase.sizes[1] for phase in phases)
    beside = epilogue.beside
    in_dram = {value: t for value, t in epilogue.outputs.items() if isinstance(t, DramTensor)}
    possible = epilogue.lane_step == LANES
    rows = _rows_together(k, in_dram, height, step) if in_dram and possible else total
    turn: dict[tuple[SSAValue, int, tuple[int, ...]], Buffer] = {}
    for number, first in enumerate(range(0, total, rows)):
        count = min(rows * step, shape[height] // beside - first * step)
        staged: Staged = {}
        for value, tensor in in_dram.items() if possible else ():
            images, channels, *_ = tensor.shape
            part = (
                images,
                channels * beside,
                *(count if d == height else n for d, n in enumerate(tensor.shape) if d > 1),
            )
            key = value, number % STAGED_COPIES, part
            if key not in turn:
                turn[key] = k.b.alloc_outer(SbufTensor.buffer_shape(part, 1), tensor.dtype, "sbuf", "rows")
            buffer = turn[key]
            place = tensor.part(height, first * step * beside, count * beside)
            staged[value] = (SbufTensor(buffer, part, 1), place)
        for phase in phases:
            if (here := phase_rows(phase, first, rows)) is not None:
                yield here, _writing(epilogue, here, staged, (n, height, first * step))
        for on_chip, place in staged.values():
            if beside == 1:
                write_out(k.b, on_chip, place)
            else:
                _write_rows(k, on_chip, place, height, beside)


def phases_beside(
    k: Kernel,
    op: ConvOp | ConvTransposeOp,
    ops: Sequence[Operation],
    results: Sequence[SSAValue],
    phases: Sequence[Phase],
) -> list[Phase]:
    """Phases of all rows at once, whose channels share the columns of the array; none where that is not possible.

    It is for results in DRAM of few channels, and for what varies along the channels alone.
    """
    merged = rows_beside(phases)
    shape, made = shape_of(op.result), {op.result, *(inner.results[0] for inner in ops)}
    beside = 1 + len(merged[0].beside) if merged else 1
    if beside == 1 or op.groups.value.data > 1 or shape[1] * beside > LANES or len(shape) < 4:
        return []
    others = [x for inner in ops for x in inner.operands if x not in made and k.scalar(x) is None]
    columns = all(shape_of(x)[1 - len(shape) : 2 - len(shape)] == (prod(shape_of(x)),) == shape[1:2] for x in others)
    in_dram = not any(value in k.residents or value in k.joined for value in results)
    return merged if columns and in_dram and k.scalar(op.w) is None else []


def _write_rows(k: Kernel, on_chip: SbufTensor, place: DramTensor, height: int, beside: int) -> None:
    """Store rows that lie `beside` each other as channels."""
    if len(place.shape) == 4:
        store_beside(k.b, place, on_chip.view({}), beside)
        return
    channels, others = place.shape[1], [d for d in range(len(place.shape)) if d != 1]
    pairs: list[tuple[View, View]] = []
    for row in range(beside):
        starts = [row if d == height else 0 for d in range(len(place.shape))]
        sizes = [size // beside if d == height else size for d, size in enumerate(place.shape)]
        window = place.slice(starts, sizes, [beside if d == height else 1 for d in range(len(place.shape))])
        pairs.append((window.view(order=[1, *others]), on_chip.view({}).slice(0, row * channels, channels)))
    store_in_pieces(k.b, pairs)


def _rows_together(k: Kernel, results: dict[SSAValue, DramTensor], height: int, step: int) -> int:
    """Rows of each phase that are put together."""
    row_bytes = 0
    for tensor in results.values():
        row = tuple(1 if d == height else size for d, size in enumerate(tensor.shape))
        elements = 1
        for size in SbufTensor.buffer_shape(row, 1)[1:]:
            elements *= size
        row_bytes += elements * dtype_by_name(tensor.dtype).size_bytes
    sbuf = int(k.target.sbuf_bytes_per_partition)
    room = min(sbuf // STAGED_SHARE, (sbuf - k.resident_bytes) // 4)
    return max(1, room // (row_bytes * step))


def _writing(epilogue: Epilogue, phase: Phase, staged: Staged, rows: tuple[int, int, int]) -> Epilogue:
    """The epilogue of one phase; `rows`: spatial dimensions, the height's place, the first row that is on chip."""
    n, height, first = rows
    starts = (0, 0, *spatial_part(phase.origin, n))
    images, channels = epilogue.shape[:2]
    sizes = (images, channels * epilogue.beside, *spatial_part(phase.sizes, n))
    steps = (1, 1, *spatial_part(phase.step, n))
    inside = tuple(start - first if d == height else start for d, start in enumerate(starts))
    return epilogue.windowed((starts, sizes, steps), {value: (tensor, inside) for value, (tensor, _) in staged.items()})
