"""Pure arithmetic of a recurrent layer on a core: how hidden units lie on partitions, and what stays in SBUF."""

from dataclasses import dataclass
from math import ceil

from lowering.graph_to_tile.iteration import balanced
from passes.graph.conv_groups import LANES

USABLE_SBUF = 0.9
"""Share of SBUF that a layer plans with; alignment and small buffers take the rest."""

CHUNK_SHARE = 0.125
"""Share of SBUF for the gates and results of the steps that are loaded and stored together, both twice."""

STATE_SHARE = 0.25
"""Share of SBUF that state and temporaries may take; a larger batch is cut."""

OVERLAPPED_NS = 3000.0
"""A step is cut into blocks that keep the tensor engine busy for so long, as the functions of a block take about that
long: they run while the next block is multiplied."""

STREAMED_COPIES = 3
"""Copies of the buffer that a streamed part of the recurrence weight rotates over."""


@dataclass(frozen=True)
class Recurrence:
    """A layer to plan for. `element_bytes`: of what is multiplied; `step_ns`: the tensor engine's time for a step."""

    hidden: int
    gates: int
    steps: int
    batch: int
    element_bytes: int
    step_ns: float


@dataclass(frozen=True)
class RecurrentPlan:
    """Hidden unit j * lanes + p lies on partition p in tile j.

    `batch`: sequences that are computed together; `steps`: steps whose gates are loaded together; `block`: tiles of
    hidden units whose gates are computed together; `resident`: tiles whose part of the recurrence weight stays in SBUF,
    the others' is streamed in every step.
    """

    tiles: int
    lanes: int
    batch: int
    steps: int
    block: int
    resident: int


def lanes_of(hidden: int) -> tuple[int, int]:
    """Tiles and lanes: as few tiles as possible, equally full; the last one is `tiles * lanes - hidden` short."""
    tiles = ceil(hidden / LANES)
    return tiles, ceil(hidden / tiles)


def plan_recurrence(layer: Recurrence, sbuf_bytes: int, bank_elements: int) -> RecurrentPlan:
    """The plan for `sbuf_bytes` and PSUM banks of `bank_elements` f32 elements a partition."""
    tiles, lanes = lanes_of(layer.hidden)
    step_bytes = 2 * (layer.gates + 1) * tiles * 4
    state_bytes = tiles * (16 + 2 * layer.element_bytes)
    # A block's gates before and after their functions, and a few more of its tiles, each twice.
    block_bytes = 2 * (2 * layer.gates + 6) * 4
    most = min(bank_elements // layer.gates, int(STATE_SHARE * sbuf_bytes) // (step_bytes + state_bytes + block_bytes))
    batch = balanced(layer.batch, most)
    blocks = max(1, min(tiles, int(layer.step_ns / OVERLAPPED_NS)))
    block = balanced(tiles, min(ceil(tiles / blocks), max(1, bank_elements // (layer.gates * batch))))
    steps = balanced(layer.steps, int(CHUNK_SHARE * sbuf_bytes) // (step_bytes * batch))
    used = (steps * step_bytes + state_bytes + block * block_bytes) * batch
    room = int(USABLE_SBUF * sbuf_bytes) - used
    gate_bytes = tiles * lanes * layer.element_bytes
    resident = tiles
    if tiles * layer.gates * gate_bytes > room:
        resident = max(0, (room - STREAMED_COPIES * gate_bytes) // (layer.gates * gate_bytes))
        block = balanced(resident, block) if resident else 1
    return RecurrentPlan(tiles, lanes, batch, steps, block, resident)
