"""What depthwise convolutions by bands (`conv_bands`) leave on chip, or on its way, for other kernels.

Layers of one form share tiles, which are cleared once and may hold the bands for other images already. Transfers of a
layer's input begin when it has been made, and its result is turned when a kernel reads it: kernels of other images
stand in between.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.ir import Attribute, Operation, SSAValue

from lowering.graph_to_tile.tensors import DramTensor, SbufTensor, Tensor
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import ConvOp
from passes.graph.kernel_layouts import BANDS, anchor_of

Form = tuple[int | str, ...]
"""What tiles have in common that kernels can share."""


@dataclass
class BandTiles:
    """What a chunk of blocks of channels works in; `held` names the bands that lie there.

    `bands`: [(channel, row), blocks, channel, output row, taps]; `rows`: tiles [(channel, row), blocks, images, columns
    with their border] that take turns. All are zero where no kernel of their form writes.
    """

    bands: View
    rows: list[View]
    held: tuple[str, int] | None = None

    def next_rows(self) -> View:
        """The rows tile that was used least recently."""
        self.rows.append(self.rows.pop(0))
        return self.rows[-1]


@dataclass
class BandState:
    """State of one core function.

    `tiles`: those that stay for layers of a form; `results`: what these leave their results in, in turn; `sent`: what
    was stored of a resident tensor, with columns of zeros on its left and a number of columns in all, ahead of the
    convolution that reads it; `arriving`: what turns a tensor that a kernel is about to read, and `waiting` what loads
    it, which stands behind the loads of a kernel in between; `resident_ahead`: that of the function, once it is wanted.
    """

    tiles: dict[Form, list[BandTiles]] = field(default_factory=dict[Form, list[BandTiles]])
    results: dict[Form, list[list[View]]] = field(default_factory=dict[Form, list[list[View]]])
    sent: dict[tuple[SbufTensor, tuple[int, int]], DramTensor] = field(
        default_factory=dict[tuple[SbufTensor, tuple[int, int]], DramTensor]
    )
    arriving: dict[SbufTensor, Callable[[], None]] = field(default_factory=dict[SbufTensor, Callable[[], None]])
    waiting: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    resident_ahead: Mapping[Operation, int] = field(default_factory=dict[Operation, int])

    def begin(self, count: int) -> None:
        """Begin the first `count` loads of what arrives."""
        begun, self.waiting = self.waiting[:count], self.waiting[count:]
        for load in begun:
            load()

    def arrive(self, values: Iterable[SSAValue], tensors: Mapping[SSAValue, Tensor]) -> None:
        """Turn what a kernel reads, where that was put off."""
        for value in values:
            tensor = tensors.get(value)
            if isinstance(tensor, SbufTensor) and (turn := self.arriving.pop(tensor, None)) is not None:
                turn()


def resident_ahead(program: Sequence[tuple[Operation, int]]) -> dict[Operation, int]:
    """For each convolution by bands the most resident bytes from its kernel to the last one of the same types.

    `program`: kernels and the resident bytes of each.
    """
    convs: dict[int, ConvOp] = {}
    for number, (op, _) in enumerate(program):
        if isinstance(anchor := anchor_of(op), ConvOp) and BANDS in anchor.attributes:
            convs[number] = anchor
    last: dict[tuple[Attribute, Attribute], int] = {(op.x.type, op.w.type): number for number, op in convs.items()}
    ends = {number: last[op.x.type, op.w.type] for number, op in convs.items()}
    found = maxima([size for _, size in program], ends)
    return {op: found[number] for number, op in convs.items()}


def maxima(sizes: Sequence[int], ends: Mapping[int, int]) -> dict[int, int]:
    """For each start the greatest of the sizes from there to its end, which counts."""
    found: dict[int, int] = {}
    # Minus the positions, behind the one at hand, of what is greater than all before it; the furthest one first.
    peaks: list[int] = []
    for start in reversed(range(len(sizes))):
        while peaks and sizes[-peaks[-1]] <= sizes[start]:
            peaks.pop()
        peaks.append(-start)
        if start in ends:
            found[start] = sizes[-peaks[bisect_left(peaks, -ends[start])]]
    return found
