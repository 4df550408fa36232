"""Pure arithmetic of matmul blocking: how many rows stay on chip while blocks of columns stream past them."""

from dataclasses import dataclass
from math import ceil

from passes.graph.conv_groups import LANES


@dataclass(frozen=True)
class MatmulPlan:
    """Blocking of one matmul.

    `panel_rows`: rows (of one batch entry) in the panel; `panel_batch`: entries of the shared batch dimensions in the
    panel; `columns`: columns of one block.
    """

    panel_rows: int
    panel_batch: int
    columns: int


def plan_matmul(
    m: int,
    k: int,
    n: int,
    batch: int,
    element_bytes: int,
    budget_bytes: int,
    columns: int,
    macs_per_byte: float = 0.0,
    least_blocks: int = 4,
    *,
    pinned: bool = False,
) -> MatmulPlan:
    """Panel and column block of a matmul that fits in `budget_bytes` a partition.

    `batch` is the number of batch entries that share the same `b`; `columns` the most columns of one PSUM bank;
    `macs_per_byte` how many multiply-adds the tensor engine does while the DMA moves a byte. Every panel streams all of
    `b` once, so a larger panel means less traffic; a narrower column block leaves room for one. The widest block whose
    traffic stays under 80 % of the multiplying time is taken, or else the one with the least traffic. `least_blocks` at
    least, where n allows: a first block that has nothing to overlap its loads with should be a small part of the whole.
    Blocks of a `pinned` b take no room and no traffic.
    """
    work = batch * m * k * n
    best: tuple[float, MatmulPlan] | None = None
    width = min(n, columns, max(LANES, ceil(n / least_blocks)))
    while True:
        plan = _largest_panel(m, k, batch, element_bytes, budget_bytes, width, pinned)
        if plan is not None:
            panels = ceil(m / plan.panel_rows) * ceil(batch / plan.panel_batch)
            streamed = 0 if pinned else panels * k * n
            traffic = (streamed + batch * m * (k + n)) * element_bytes * macs_per_byte
            if traffic <= 0.8 * work:
                return plan
            if best is None or traffic < best[0]:
                best = (traffic, plan)
        if width <= 16 or (best is not None and width <= 128):
            break
        width = ceil(width / 2)
    return best[1] if best is not None else MatmulPlan(min(m, LANES), 1, width)


def _largest_panel(
    m: int, k: int, batch: int, element_bytes: int, budget_bytes: int, columns: int, pinned: bool
) -> MatmulPlan | None:
    """The largest panel that fits, None without room.

    It lies beside three column blocks (the first, and two that rotate) and two staged row blocks; pinned columns are
    accounted for already.
    """
    row_bytes = ceil(k / LANES) * element_bytes
    beside = 2 * LANES + (0 if pinned else 3 * columns)
    most_rows = (budget_bytes - beside * row_bytes) // row_bytes
    if most_rows < min(m, LANES):
        return None
    if m * batch <= most_rows:
        return MatmulPlan(m, batch, columns)
    if m <= most_rows:
        return MatmulPlan(m, max(1, most_rows // m), columns)
    return MatmulPlan(even_part(ceil(m / LANES), most_rows // LANES) * LANES, 1, columns)


def even_part(count: int, most: int) -> int:
    """Size of equal parts of `count`, at most `most`; a divisor, which leaves no rest, if one is half of it or more."""
    divisor = next((d for d in range(most, 0, -1) if count % d == 0), 1)
    return divisor if 2 * divisor >= most else ceil(count / ceil(count / most))
