"""What depthwise convolutions by bands (`conv_bands`) leave on chip, or on its way, for other kernels.

Layers of one form share tiles, which are cleared once and may hold the bands for other images already. Transfers of a
layer's input begin when it has been made, and its result is turned when a kernel reads it: kernels of other images
stand in between.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from xdsl.ir import SSAValue

from lowering.graph_to_tile.tensors import DramTensor, SbufTensor, Tensor
from lowering.graph_to_tile.view import View

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
    it, which stands behind the loads of a kernel in between.
    """

    tiles: dict[Form, list[BandTiles]] = field(default_factory=dict[Form, list[BandTiles]])
    results: dict[Form, list[list[View]]] = field(default_factory=dict[Form, list[list[View]]])
    sent: dict[tuple[SbufTensor, tuple[int, int]], DramTensor] = field(
        default_factory=dict[tuple[SbufTensor, tuple[int, int]], DramTensor]
    )
    arriving: dict[SbufTensor, Callable[[], None]] = field(default_factory=dict[SbufTensor, Callable[[], None]])
    waiting: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

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
