"""Pure arithmetic of convolutions of few channels: which filter taps lie side by side on partitions.

A channel fills one row of the tensor engine, so that a product for each tap leaves most of the array idle. Loads put
the taps of neighbouring rows side by side, each row of lanes with an image of its own; copies on chip put the taps of
neighbouring columns beside them, each shifted by a column more, from quadrant to quadrant. Loads cost DRAM bytes,
copies the time of the engines that also empty PSUM, and products that of the tensor engine: where loads limit,
`plan_taps` takes what keeps the busiest of them least busy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES, QUADRANT

WORTH = 0.9
"""Columns are put side by side where that leaves less than this share of the time."""


@dataclass(frozen=True)
class Filter:
    """A filter over few channels. Pairs are (height, width); a depth counts as height where no plan cuts the rows."""

    channels: int
    outputs: int
    taps: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]


@dataclass(frozen=True)
class TapPlan:
    """`rows` x `columns` taps lie on partitions: lane column * slot + row * channels + channel."""

    filter: Filter
    rows: int
    columns: int
    slot: int

    @property
    def lanes(self) -> int:
        """Lanes from the first to the last in use."""
        return (self.columns - 1) * self.slot + self.rows * self.filter.channels

    @property
    def steps(self) -> tuple[int, int]:
        """Products along (rows, columns)."""
        return ceil(self.filter.taps[0] / self.rows), ceil(self.filter.taps[1] / self.columns)

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """For each product, where it starts to read in a tile whose rows are those of the outputs: (row, column)."""
        rows, columns = self.steps
        pitch = self.rows * self.filter.dilation[0] // self.filter.stride[0]
        return tuple(
            (row * pitch, column * self.columns * self.filter.dilation[1])
            for row in range(rows)
            for column in range(columns)
        )

    @property
    def reach(self) -> tuple[int, int]:
        """Extents of the window with taps that are zero up to whole products."""
        padded = (self.steps[0] * self.rows, self.steps[1] * self.columns)
        return (
            (padded[0] - 1) * self.filter.dilation[0] + 1,
            (padded[1] - 1) * self.filter.dilation[1] + 1,
        )

    @property
    def read_step(self) -> int:
        """Columns of a tile from one that products read to the next."""
        stride = self.filter.stride[1]
        return 1 if self.columns * self.filter.dilation[1] % stride else stride

    def read_columns(self, outputs: int) -> int:
        """Columns of a tile, `read_step` apart, that the products of `outputs` columns read."""
        last = (outputs - 1) * self.filter.stride[1] + max(column for _, column in self.offsets)
        return last // self.read_step + 1


def plan_taps(window: Filter, element: str, source_bytes: int, target: Target, pairs: bool = False) -> TapPlan:
    """The plan that keeps the busiest engine least busy; all rows and one column unless loads of these are what limits,
    or `pairs` of rows are made of large maps.

    What the copies need is time between a load and the first product. `element`: what products read; `source_bytes`:
    of an element in DRAM.
    """
    plain = TapPlan(window, window.taps[0], 1, 0)
    costs = _costs(plain, element, source_bytes, target)
    limited_by_loads = costs[0] == max(costs)
    if not (limited_by_loads or pairs):
        return plain
    best, least = plain, (max(costs) * WORTH, 0.0)
    for plan in plans_with_columns(window):
        costs = _costs(plan, element, source_bytes, target)
        if not limited_by_loads and costs[2] == max(costs):
            continue  # PSUM would be emptied later
        if (max(costs), sum(costs)) < least:
            best, least = plan, (max(costs), sum(costs))
    return best


def plans_with_columns(window: Filter) -> Iterator[TapPlan]:
    """Plans with several columns, in quadrants or in halves of the array."""
    taken = window.taps[0]
    for slot in (QUADRANT, LANES // 2):
        for columns in range(2, min(LANES // slot, window.taps[1]) + 1):
            for rows in range(1, min(taken, slot // window.channels) + 1):
                whole = rows * window.dilation[0] % window.stride[0] == 0
                if rows == taken or whole:
                    yield TapPlan(window, rows, columns, slot)


def _costs(plan: TapPlan, element: str, source_bytes: int, target: Target) -> tuple[float, float, float]:
    """Nanoseconds for each output pixel: of loads, of the tensor engine, of the engines that copy and empty PSUM."""
    window, stride = plan.filter, plan.filter.stride[1]
    products = plan.steps[0] * plan.steps[1] * ceil(window.outputs / int(target.pe_columns))
    multiplied = products * target.matmul_rate_factor(element) / target.clock_ghz("pe")
    swept = float(ceil(window.outputs / LANES))
    if plan.columns > 1:
        # A copy for each column but the first.
        swept += (plan.columns - 1) * stride / plan.read_step
    swept /= target.clock_ghz("act") + target.clock_ghz("dve")
    rate = min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns))
    loaded = plan.rows * window.channels * stride * source_bytes / rate
    return loaded, multiplied, swept
