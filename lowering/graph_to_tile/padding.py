"""Kernel template of graph.pad: the interior is copied, the border set to a number or copied from the interior."""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from xdsl.ir import Operation

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.movement import settle
from lowering.graph_to_tile.relayout import copy_window, fill_window
from lowering.graph_to_tile.tensors import DramTensor
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import PadMode, PadOp, ints


def lower_pad(k: Kernel, op: PadOp) -> None:
    """The interior copied; the border set to the value, or copied from mirrored, edge or opposite elements."""
    low, high = ints(op.low), ints(op.high)
    source = k.dram(op.x)
    if op.result in k.destinations:
        output = k.output(op.result)
    else:
        output = k.scratch(op.result)
    assert isinstance(output, DramTensor)
    if op.mode.data is PadMode.CONSTANT:
        number = float(op.value.value.data)
        value = number if dtype_by_name(output.dtype).is_float else float(int(number))
        copy_window(k, source, output.slice(low, source.shape, [1] * len(low)))
        for border in borders(output, source.shape, low):
            fill_window(k, border, value)
    else:
        parts = (list(pad_parts(op.mode.data, *sizes)) for sizes in zip(source.shape, low, high, strict=True))
        for choice in product(*parts):
            _copy_part(k, source, output, choice)
    if op.result not in k.destinations:
        settle(k, op.result, output)


def borders(output: DramTensor, inner: Sequence[int], low: Sequence[int]) -> Iterable[DramTensor]:
    """Disjoint windows that cover what lies around the interior of shape `inner` at position `low`."""
    for d, (whole, size, before) in enumerate(zip(output.shape, inner, low, strict=True)):
        for start, count in ((0, before), (before + size, whole - before - size)):
            starts = [*low[:d], start, *(0 for _ in output.shape[d + 1 :])]
            sizes = [*inner[:d], count, *output.shape[d + 1 :]]
            if count:
                yield output.slice(starts, sizes, [1] * len(starts))


Part = tuple[int, int, int, int]
"""Along one dimension: (first position in the result, size, first position in the operand, step in the operand)."""


def pad_parts(mode: PadMode, size: int, low: int, high: int) -> Iterable[Part]:
    """The runs that one padded dimension consists of, those without elements left out."""
    before, after = {
        PadMode.REFLECT: ((low, -1), (size - 2, -1)),
        PadMode.EDGE: ((0, 0), (size - 1, 0)),
        PadMode.WRAP: ((size - low, 1), (0, 1)),
    }[mode]
    for part in ((0, low, *before), (low, size, 0, 1), (low + size, high, *after)):
        if part[1]:
            yield part


def _copy_part(k: Kernel, source: DramTensor, output: DramTensor, choice: Sequence[Part]) -> None:
    to, sizes, start, step = (tuple(numbers) for numbers in zip(*choice, strict=True))
    copy_window(k, source.slice(start, sizes, step), output.slice(to, sizes, [1] * len(sizes)))


KERNELS: dict[type[Operation], Callable[[Kernel, Any], None]] = {PadOp: lower_pad}
