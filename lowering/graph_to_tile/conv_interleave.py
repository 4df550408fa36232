"""Where the phases of a transposed convolution write: interleaved on chip, not element by element in DRAM.

Each phase yields every stride-th position of the result. A resident result is written in place, with strides. A result
in DRAM is put together in SBUF, some rows of all phases at a time, and stored in whole rows.
"""

from collections.abc import Iterator, Sequence

from xdsl.ir import SSAValue

from lowering.graph_to_tile.conv_phases import Phase, phase_rows, spatial_part
from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel, write_out
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from neuron_dialects.dtypes import dtype_by_name

STAGED_SHARE = 8
"""The rows of a result that are put together take at most this part (one over it) of SBUF."""

Staged = dict[SSAValue, tuple[SbufTensor, DramTensor]]
"""Result -> (rows on chip, all of it in DRAM)."""


def interleaved(k: Kernel, epilogue: Epilogue, phases: Sequence[Phase], n: int) -> Iterator[tuple[Phase, Epilogue]]:
    """The plain convolutions to run, in order, each with the epilogue that writes its part of the result.

    `n`: spatial dimensions. What was put together is stored when the caller comes back for the next convolution.
    """
    shape = epilogue.shape
    height = 3 if n == 3 else 2
    step, total = phases[0].step[1], max(phase.sizes[1] for phase in phases)
    in_dram = {value: t for value, t in epilogue.outputs.items() if isinstance(t, DramTensor)}
    possible = epilogue.lane_step == LANES
    rows = _rows_together(k, in_dram, height, step) if in_dram and possible else total
    for first in range(0, total, rows):
        count = min(rows * step, shape[height] - first * step)
        staged: Staged = {}
        for value, tensor in in_dram.items() if possible else ():
            part = tuple(count if d == height else size for d, size in enumerate(tensor.shape))
            buffer = k.b.alloc_outer(SbufTensor.buffer_shape(part, 1), tensor.dtype, "sbuf", "rows")
            staged[value] = (SbufTensor(buffer, part, 1), _rows_of(tensor, height, first * step, count))
        for phase in phases:
            if (here := phase_rows(phase, first, rows)) is not None:
                yield here, _writing(epilogue, here, staged, (n, height, first * step))
        for on_chip, place in staged.values():
            write_out(k.b, on_chip, place)


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


def _rows_of(tensor: DramTensor, height: int, first: int, count: int) -> DramTensor:
    starts, sizes = [0] * len(tensor.shape), list(tensor.shape)
    starts[height], sizes[height] = first, count
    return tensor.slice(starts, sizes, [1] * len(sizes))


def _writing(epilogue: Epilogue, phase: Phase, staged: Staged, rows: tuple[int, int, int]) -> Epilogue:
    """The epilogue of one phase; `rows`: spatial dimensions, the height's place, the first row that is on chip."""
    n, height, first = rows
    starts = (0, 0, *spatial_part(phase.origin, n))
    sizes = (*epilogue.shape[:2], *spatial_part(phase.sizes, n))
    steps = (1, 1, *spatial_part(phase.step, n))
    inside = tuple(start - first if d == height else start for d, start in enumerate(starts))
    return epilogue.windowed((starts, sizes, steps), {value: (tensor, inside) for value, (tensor, _) in staged.items()})
