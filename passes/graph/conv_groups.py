"""How the groups of a convolution are put side by side for the tensor engine; plain arithmetic."""

from dataclasses import dataclass
from math import ceil

LANES = 128
"""Rows of the tensor engine, and partitions of a resident tile."""

QUADRANT = 32
"""Lanes at multiples of which engines begin to read and write."""


@dataclass(frozen=True)
class ConvGroups:
    """`groups` groups of `inputs` input and `outputs` output channels, `per_block` of them multiplied together."""

    groups: int
    inputs: int
    outputs: int
    per_block: int

    @property
    def blocks(self) -> int:
        """Number of blocks (the last may hold fewer groups)."""
        return ceil(self.groups / self.per_block)

    @property
    def block_inputs(self) -> int:
        """Input channels of a full block."""
        return self.inputs * self.per_block

    @property
    def block_outputs(self) -> int:
        """Output channels of a full block."""
        return self.outputs * self.per_block

    @property
    def lane_step(self) -> int:
        """Output channels of one tile: 128, or a divisor of a block's outputs where blocks must start on a tile."""
        if self.blocks == 1:
            return LANES
        return next(d for d in range(min(LANES, self.block_outputs), 0, -1) if self.block_outputs % d == 0)


def plan_groups(channels: int, outputs: int, groups: int, packable: bool = True) -> ConvGroups:
    """Blocks of a convolution from `channels` to `outputs`; `packable`: whether zeros may be packed into filters.

    Blocks are as large as they can be without more multiplications of tiles of 128 by 128 channels.
    """
    inputs, each = channels // groups, outputs // groups
    most = max(1, min(groups, max(LANES // inputs, LANES // each))) if packable else 1

    def multiplications(per_block: int) -> int:
        return ceil(groups / per_block) * ceil(per_block * inputs / LANES) * ceil(per_block * each / LANES)

    per_block = min(range(1, most + 1), key=lambda count: (multiplications(count), -count))
    return ConvGroups(groups, inputs, each, per_block)
