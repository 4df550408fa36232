"""How many images each layer takes as one of more channels: estimates of time, and the best choice; plain arithmetic.

A layer's estimate is the longest of what the tensor engine, the engines that empty PSUM, and the DMA take. Where two
layers fold differently, what lies between them goes through DRAM, if it could have stayed on chip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES, plan_groups
from passes.graph.kernel_layouts import THIN_CHANNELS

FOLDS = (1, 2, 4, 8)
"""Images that may become one."""


@dataclass(frozen=True)
class Convolution:
    """`images` of `channels` channels to `outputs` channels of `pixels` positions, in `groups` groups.

    `taps` of the filter, `rows` of them in all dimensions but the innermost one; `thin`: whether these may lie on
    partitions, as they may where the input comes from DRAM.
    """

    images: int
    channels: int
    outputs: int
    groups: int
    pixels: int
    taps: int
    rows: int
    thin: bool
    element_bytes: int


@dataclass(frozen=True)
class Sweep:
    """Elementwise work on a result: `images` of `channels` channels of `pixels` positions, `passes` times."""

    images: int
    channels: int
    pixels: int
    passes: float
    element_bytes: int


def convolution_ns(work: Convolution, fold: int, target: Target) -> float:
    """The tensor engine's time, or that of loading the filters if that takes longer."""
    channels, outputs = work.channels * fold, work.outputs * fold
    groups = plan_groups(channels, outputs, work.groups * fold)
    columns = int(target.pe_columns)
    halves = ceil(min(LANES, groups.block_outputs) / columns)
    if work.thin and groups.blocks == 1 and channels <= THIN_CHANNELS and channels * work.rows <= LANES:
        products = work.taps // work.rows * ceil(outputs / LANES)
    else:
        tiles = ceil(groups.block_inputs / LANES) * ceil(groups.block_outputs / LANES)
        products = work.taps * tiles * groups.blocks
    moving = work.images // fold * work.pixels
    bank = int(target.pe_moving_elements)
    issued = max(moving, ceil(moving / bank) * int(target.min_issue_cycles))
    filters = groups.blocks * groups.block_inputs * groups.block_outputs * work.taps * work.element_bytes
    return max(products * halves * issued / target.clock_ghz("pe"), filters / _rate(target))


def sweep_ns(work: Sweep, fold: int, target: Target, stored: bool) -> float:
    """Time of the engines that write the result; `stored`: it goes to DRAM, a PSUM bank at a time, and comes back."""
    moving = work.images // fold * work.pixels
    lanes = work.channels * fold
    tiles = ceil(lanes / LANES)
    swept = work.passes * tiles * moving / (target.clock_ghz("act") + target.clock_ghz("dve"))
    if not stored:
        return swept
    pieces = tiles * ceil(moving / int(target.pe_moving_elements))
    start = float(target.dma_stagger_ns) * int(target.dma_engines)
    return max(swept, pieces * start, 2 * lanes * moving * work.element_bytes / _rate(target))


def stays_in_place(work: Convolution, fold: int) -> bool:
    """Whether the folded convolution can read its operand, and leave its result, on chip."""
    groups = plan_groups(work.channels * fold, work.outputs * fold, work.groups * fold)
    return groups.lane_step == LANES and (groups.blocks == 1 or groups.block_inputs % LANES == 0)


def round_trip_ns(size_bytes: int, target: Target) -> float:
    """Time of a tensor that goes to DRAM and comes back before anything else can be done."""
    return 2 * (size_bytes / _rate(target) + float(target.dma_start_ns + target.dma_completion_ns))


def _rate(target: Target) -> float:
    return min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns))


def plan_folds(costs: Sequence[Mapping[int, float]], switches: Sequence[float]) -> list[int]:
    """The fold of each layer, so that costs and switches add up to the least; the smaller one where two are equal.

    `costs`: of each layer by its possible folds; `switches`: what it costs to change the fold in front of a layer.
    """
    if not costs:
        return []
    best = dict(costs[0])
    steps: list[dict[int, int]] = []
    for options, switch in zip(costs[1:], switches[1:], strict=True):
        cheapest = min(best, key=lambda fold: (best[fold], fold))
        came: dict[int, int] = {}
        total: dict[int, float] = {}
        for fold, cost in options.items():
            stay, change = best.get(fold, inf), best[cheapest] + switch
            came[fold] = fold if stay <= change else cheapest
            total[fold] = min(stay, change) + cost
        steps.append(came)
        best = total
    fold = min(best, key=lambda fold: (best[fold], fold))
    chosen = [fold]
    for came in reversed(steps):
        fold = came[fold]
        chosen.append(fold)
    return chosen[::-1]
