"""The steps that compute the products of a program: operands into scratch arrays, one call for each batch, the results.

Given the reads and writes of a program's executions in the order of time, finds groups and batches of multiplications
(`products`, `batches`) and gives the steps that take their place. An operand is copied, as float32, when it is read, or
when its batch is computed if that is sooner. What is constant was prepared beforehand (`constants`), by its blocks
where most of it is zero (`blocks`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.machine.batches import Batch, find_batches, was_there
from runtime.machine.blocks import BlockOperand, Floats, Places, rows_at, rows_split
from runtime.machine.constants import ConstantOperand, Constants
from runtime.machine.execution import Execution, Step
from runtime.machine.products import Group, Listing, Slab, Slabs, Touches, find_groups
from runtime.semantics.numerics import Read, Write, widening
from runtime.semantics.registry import Array
from runtime.semantics.tensor_engine import product_reader, product_writer

ROLES = ("stationary", "moving")


@dataclass(eq=False)
class _Plan:
    """How a batch is computed.

    `rows`, `columns`: sizes of its operands, by role. `constants`: operands that are kept; `slabs`: scratch for the
    others, from the first read to the product. `result`: [stationary columns, moving columns], from the product until
    the `unstored` groups have got theirs; None where the product of the only group goes to its place at once.
    """

    batch: Batch
    rows: int
    columns: dict[str, int]
    constants: dict[str, ConstantOperand]
    unstored: int
    slabs: dict[str, Slab] = field(default_factory=dict[str, Slab])
    computed: bool = False
    result: Floats | None = None

    def __post_init__(self) -> None:
        self.index = {group: number for number, group in enumerate(self.batch.groups)}

    @property
    def blocks(self) -> BlockOperand | None:
        """The stationary operand, if it is given by its blocks."""
        operand = self.constants.get("stationary")
        return operand if isinstance(operand, BlockOperand) else None

    def slab_key(self, role: str) -> Hashable:
        """What the slab of an operand holds, and in which order."""
        contents = self.batch.stationary if role == "stationary" else self.batch.groups[0].moving
        places = self.row_places
        return tuple(contents), self.columns[role], None if places is None else places.tobytes()

    @property
    def row_places(self) -> Places | None:
        """Where the rows of the moving operand stand in its slab; None where they stand in their order."""
        return None if self.blocks is None else self.blocks.row_places


class ProductSteps:
    """Turns the reads and writes of products into steps; `spared`: what need not be read because it is kept;
    `constants`: the executions that write what is the same in every run.

    Args:
        order: what happens in time: `number` when an execution reads, `~number` when its results are written.
        executions, touches: of each execution, by number.
    """

    def __init__(
        self, order: Sequence[int], executions: Mapping[int, Execution], touches: Mapping[int, Touches]
    ) -> None:
        self.spared: dict[int, list[Listing]] = {}
        self._executions, self._touches = executions, touches
        found = find_groups(order, touches)
        groups, self.constants = found.groups, found.constants
        self._row = dict(self._rows(groups))
        self._place = {number: (group, member) for group in groups for member, number in enumerate(group.members)}
        ends = {~entry: time for time, entry in enumerate(order) if entry < 0}
        constants = Constants(order, executions, found.constants)
        plans = [
            plan
            for batch in find_batches(groups, ends, {group: self._columns(group) for group in groups})
            for plan in self._planned(batch, constants)
        ]
        self._plans = {group: plan for plan in plans for group in plan.batch.groups}
        self._slabs = Slabs(Counter(p.slab_key(role) for p in plans for role in ROLES if role not in p.constants))
        self._free: dict[int, list[Floats]] = {}

    def __contains__(self, number: int) -> bool:
        """Whether an execution is a product that is computed here."""
        return number in self._place

    def read(self, number: int) -> Iterator[Step]:
        """Steps for the read of a product: its operands are copied, unless they are there already."""
        group, member = self._place[number]
        plan, product = self._plans[group], self._touches[number].product
        assert product is not None
        for role, listing in zip(ROLES, (product.stationary, product.moving), strict=True):
            if role in plan.constants:
                self.spared.setdefault(number, []).append(listing)
            elif not plan.computed:
                yield from self._fill(plan, group, member, role)

    def write(self, number: int) -> Iterator[Step]:
        """Steps for the write of a product: at the end of its group the batch is computed, and the group is stored."""
        group, member = self._place[number]
        if member + 1 < len(group.members):
            return
        plan = self._plans[group]
        if not plan.computed:
            plan.computed = True
            if "stationary" not in plan.constants:
                for other in plan.batch.groups:
                    for position in range(len(other.members)):
                        yield from self._fill(plan, other, position, "stationary")
            yield self._multiply(plan, group)
            for slab in plan.slabs.values():
                self._slabs.leave(slab)
            plan.slabs.clear()
        if plan.result is not None:
            yield self._store(plan, plan.result, group)
            plan.unstored -= 1
            if not plan.unstored:
                memory = plan.result.base
                assert isinstance(memory, np.ndarray)
                self._free.setdefault(memory.size, []).append(memory)
                plan.result = None

    # -- planning -----------------------------------------------------------------------------------------------------

    def _rows(self, groups: Sequence[Group]) -> Iterator[tuple[int, int]]:
        """Each member of the groups, and the first of its rows in the slabs."""
        for group in groups:
            row = 0
            for number in group.members:
                yield number, row
                row += self._executions[number].view("moving").shape[0]

    def _columns(self, group: Group) -> tuple[int, int]:
        """Stationary and moving columns."""
        stationary, moving = (self._executions[group.members[0]].view(role) for role in ROLES)
        return stationary.size // stationary.shape[0], moving.size // moving.shape[0]

    def _planned(self, batch: Batch, constants: Constants) -> Iterator[_Plan]:
        """The batch's plan; plans of its groups, where its constants can neither be kept nor are there in time."""
        lead = batch.groups[0]
        moving = constants.operand([lead], "moving", blocks=False)
        stationary = constants.operand(batch.groups, "stationary", blocks=moving is None)
        if stationary is None and len(batch.groups) > 1 and not was_there(batch.stationary, batch.end):
            for alone in batch.alone():
                yield from self._planned(alone, constants)
            return
        found = {"stationary": stationary, "moving": moving}
        columns = {"stationary": batch.columns, "moving": self._columns(lead)[1]}
        kept = {role: operand for role, operand in found.items() if operand is not None}
        yield _Plan(batch, lead.rows, columns, kept, len(batch.groups))

    # -- steps --------------------------------------------------------------------------------------------------------

    def _fill(self, plan: _Plan, group: Group, member: int, role: str) -> Iterator[Step]:
        """Copy one operand into its slab, unless it is there."""
        slab = plan.slabs.get(role)
        if slab is None:
            operands = len(plan.batch.stationary) if role == "stationary" else len(group.members)
            slab = self._slabs.take(plan.slab_key(role), plan.rows, plan.columns[role], operands)
            plan.slabs[role] = slab
        index = plan.index[group]
        position = member + plan.batch.operands[index] if role == "stationary" else member
        if slab.filled[position]:
            return
        slab.filled[position] = True
        execution = self._executions[group.members[member]]
        view = execution.view(role)
        row = self._row[group.members[member]]
        if role == "stationary":
            start = plan.batch.starts[index]
            target = slab.array[row : row + len(view), start : start + view.size // len(view)]
        elif plan.row_places is None:
            target = slab.array[row : row + len(view)]
        else:
            target = rows_at(slab.array, plan.row_places[row : row + len(view)])
            assert target is not None
            view = rows_split(view, target.shape[:-1])
        yield _copy(product_reader(execution.dtype(role)), target.reshape(view.shape), view)

    def _multiply(self, plan: _Plan, group: Group) -> Step:
        """Compute a batch, of which `group` is the first to end."""
        stationary, moving = (plan.constants[r] if r in plan.constants else plan.slabs[r].array for r in ROLES)
        assert isinstance(moving, np.ndarray)
        blocks, last = plan.blocks, self._executions[group.members[-1]]
        if blocks is None and len(plan.batch.groups) == 1:
            assert isinstance(stationary, np.ndarray)
            return _multiply(stationary.T, moving, last.view("dst"), last.dtype("dst"), group.adds)
        if blocks is not None and len(plan.batch.groups) == 1 and blocks.keeps_columns and not group.adds:
            place = _place(last.view("dst"), last.dtype("dst"), plan.columns["stationary"], plan.columns["moving"])
            if place is not None:
                return (blocks.multiply, (moving, place))
        plan.result = self._result(plan.columns["stationary"], plan.columns["moving"])
        if blocks is not None:
            return (blocks.multiply, (moving, plan.result))
        assert isinstance(stationary, np.ndarray)
        return (np.matmul, (stationary.T, moving, plan.result))

    def _result(self, rows: int, columns: int) -> Floats:
        size = 1 << (rows * columns - 1).bit_length()
        free = self._free.get(size)
        memory = free.pop() if free else np.empty(size, np.float32)
        return memory[: rows * columns].reshape(rows, columns)

    def _store(self, plan: _Plan, result: Floats, group: Group) -> Step:
        """Put a group's part of the result into its place."""
        last = self._executions[group.members[-1]]
        dst, start = last.view("dst"), plan.batch.starts[plan.index[group]]
        values = result[start : start + len(dst)]
        if plan.blocks is not None:
            places = plan.blocks.blocks.columns[start : start + len(dst)]
            found = rows_at(result, places)
            if found is None:
                return (_store_rows, (dst, result, places, None if group.adds else product_writer(last.dtype("dst"))))
            values, dst = found, rows_split(dst, found.shape[:-1])
        values = values.reshape(dst.shape)
        if group.adds:
            return (np.add, (dst, values, dst))
        return (product_writer(last.dtype("dst")), (dst, values))


def _copy(read: Read | None, target: Array, view: Array) -> Step:
    return widening(target, view) if read is None else (_copy_read, (read, target, view))


def _copy_read(read: Read, target: Array, view: Array) -> None:
    np.copyto(target, read(view))


def _multiply(stationary: Array, moving: Array, dst: Array, dtype: str, adds: bool) -> Step:
    if adds:
        return (_add_product, (stationary, moving, dst))
    place = _place(dst, dtype, stationary.shape[0], moving.shape[1])
    if place is not None:
        return (np.matmul, (stationary, moving, place))
    return (_write_product, (stationary, moving, dst, product_writer(dtype)))


def _place(dst: Array, dtype: str, rows: int, columns: int) -> Array | None:
    """The destination as a float32 matrix; None where it is none."""
    flat = dst.reshape(dst.shape[0], -1)
    return flat if dtype == "f32" and np.may_share_memory(flat, dst) and flat.shape == (rows, columns) else None


def _store_rows(dst: Array, result: Floats, places: Places, write: Write | None) -> None:
    """Write the rows at `places`, or add them to what is there."""
    values = result[places].reshape(dst.shape)
    if write is None:
        np.add(dst, values, out=dst)
    else:
        write(dst, values)


def _add_product(stationary: Array, moving: Array, dst: Array) -> None:
    np.add(dst, np.matmul(stationary, moving).reshape(dst.shape), out=dst)


def _write_product(stationary: Array, moving: Array, dst: Array, write: Write) -> None:
    write(dst, np.matmul(stationary, moving))
