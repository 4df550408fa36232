"""Pure arithmetic of a recurrent layer on a core: how hidden units lie on partitions, and what stays in SBUF."""

from dataclasses import dataclass
from math import ceil, inf

from lowering.graph_to_tile.iteration import balanced
from passes.graph.conv_groups import LANES

USABLE_SBUF = 0.97
"""Share of SBUF that a layer plans with; alignment and small buffers take the rest."""

CHUNK_SHARE = 0.125
"""Share of SBUF for the gates and results of the steps that are loaded and stored together, both twice."""

STATE_SHARE, LARGEST_STATE_SHARE = 0.25, 0.45
"""Share of SBUF that state and temporaries may take; a larger batch is cut, unless more of the weight that then streams
past in each step takes less time than more steps."""

LEAST_COLUMNS = 64
"""Columns of a product that take the tensor engine as long as one."""

OVERLAPPED_NS = 3000.0
"""A step is cut into blocks that keep the tensor engine busy for so long, as the functions of a block take about that
long: they run while the next block is multiplied."""

STREAMED_COPIES = 3
"""Copies of the buffer that a streamed part of the recurrence weight rotates over."""


@dataclass(frozen=True)
class Recurrence:
    """A layer to plan for. `element_bytes`: of what is multiplied; `step_ns`: the tensor engine's time for a step of
    all sequences; `load_bytes_per_ns`: the rate of weights that stream past; `gate_bytes`, `result_bytes`: of a gate
    that is loaded and of a result that is collected to be stored; `alternates`: whether the state is kept as it is
    multiplied, that of the last step beside that of this one; `keeps_h`: whether it is kept as f32 besides;
    `stores_state`: whether results of single steps are stored from it.
    """

    hidden: int
    gates: int
    steps: int
    batch: int
    element_bytes: int
    step_ns: float
    load_bytes_per_ns: float = inf
    gate_bytes: int = 4
    result_bytes: int = 4
    alternates: bool = False
    keeps_h: bool = True
    stores_state: bool = False


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
    """The fastest plan for `sbuf_bytes` and PSUM banks of `bank_elements` f32 elements a partition, among those that
    compute as many sequences together as one of the two shares of SBUF allows.
    """
    tiles, _ = lanes_of(layer.hidden)
    sequence_bytes = _step_bytes(layer, tiles) + _state_bytes(layer, tiles) + _block_bytes(layer)
    plans: list[RecurrentPlan] = []
    for share in (STATE_SHARE, LARGEST_STATE_SHARE):
        most = min(bank_elements // layer.gates, int(share * sbuf_bytes) // sequence_bytes)
        plans.append(_plan(layer, balanced(layer.batch, most), sbuf_bytes, bank_elements))
    return min(plans, key=lambda plan: _time_ns(layer, plan))


def _time_ns(layer: Recurrence, plan: RecurrentPlan) -> float:
    """Estimate for all sequences of the larger of the tensor engine's time and that of what streams past."""
    multiplied = layer.step_ns * max(LEAST_COLUMNS, plan.batch) / max(LEAST_COLUMNS, layer.batch)
    tile_bytes = layer.gates * plan.tiles * plan.lanes * plan.lanes * layer.element_bytes
    streamed = (plan.tiles - plan.resident) * tile_bytes / layer.load_bytes_per_ns
    return ceil(layer.batch / plan.batch) * layer.steps * max(multiplied, streamed)


def _step_bytes(layer: Recurrence, tiles: int) -> int:
    """Bytes of a partition for the gates and results of a step of one sequence, twice."""
    return 2 * (layer.gates * layer.gate_bytes + layer.result_bytes) * tiles


def _state_bytes(layer: Recurrence, tiles: int) -> int:
    kept = 4 * (1 + layer.keeps_h) if layer.alternates else 16
    return tiles * (kept + 2 * layer.element_bytes)


def _block_bytes(layer: Recurrence) -> int:
    """A block's gates before and after their functions, and a few more of its tiles, each twice."""
    return 2 * (2 * layer.gates + (2 if layer.alternates else 6)) * 4


def _plan(layer: Recurrence, batch: int, sbuf_bytes: int, bank_elements: int) -> RecurrentPlan:
    """The plan that computes `batch` sequences together."""
    tiles, lanes = lanes_of(layer.hidden)
    step_bytes, state_bytes, block_bytes = _step_bytes(layer, tiles), _state_bytes(layer, tiles), _block_bytes(layer)
    blocks = max(1, min(tiles, int(layer.step_ns / OVERLAPPED_NS)))
    block = balanced(tiles, min(ceil(tiles / blocks), max(1, bank_elements // (layer.gates * batch))))
    steps = balanced(layer.steps, int(CHUNK_SHARE * sbuf_bytes) // (step_bytes * batch))
    if steps == 1 and layer.stores_state:
        step_bytes -= 2 * layer.result_bytes * tiles
    used = (steps * step_bytes + state_bytes + block * block_bytes) * batch
    room = int(USABLE_SBUF * sbuf_bytes) - used
    gate_bytes = tiles * lanes * layer.element_bytes
    resident, missing = tiles, tiles * layer.gates * gate_bytes - room
    if 0 < missing <= (block - 1) * block_bytes * batch:
        # Smaller blocks, and all of the weight stays.
        block = balanced(tiles, block - ceil(missing / (block_bytes * batch)))
        room += missing
    if tiles * layer.gates * gate_bytes > room:
        resident = max(0, (room - STREAMED_COPIES * gate_bytes) // (layer.gates * gate_bytes))
        block = balanced(resident, block) if resident else 1
    return RecurrentPlan(tiles, lanes, batch, steps, block, resident)
