"""`graph-stagger-images`: half of the images computes while transfers of the other half are on their way.

A depthwise convolution by bands (`graph-band-filters`) begins and ends with transfers across partitions, during which
the engines have nothing to do. Given core functions with these convolutions marked, the pass runs the layers around
them for two halves of the images, and brings the kernels into an order in which one half's products stand where the
other half's transfers are waited for. Layers whose weights take longer to load than the layer to compute stay whole, as
they would be loaded twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, prod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import ConcatOp, ConvOp, FusedOp, MatMulOp, SliceOp, shape_of, spec_of
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.remarks import listening, remark
from neuron_dialects.target import Target
from passes.graph.band_filters import BANDS, Depthwise, bands_bytes, bands_ns, depthwise_of, products_ns, transfers_ns
from passes.graph.chain_pixels import chains
from passes.graph.fold_images import comes_from_dram, engine_ns, is_computed, is_constant, keeps_images_apart
from passes.graph.kernel_layouts import KEEPS_WEIGHTS, anchor_of
from passes.graph.kernel_order import Task, staggered
from passes.graph.layout import BUDGET_SHARE
from passes.graph.residence import resident_bytes
from passes.graph.split_batch import split_layers

HALVES = 2
"""Parts of the images that run one ahead of the other."""

TRANSFER_SHARE = 1.0
"""Part of the time of the engines that transfers of the halves may take."""

ISSUE_SHARE = 0.75
"""Part of the columns that a product takes the time of at least, which one for half of the images must have."""

LIVE_TENSORS, LIVE_SHARE = 6, 0.8
"""Tensors of the size of its input around such a convolution (a hidden layer is four of them), and the part of their
images that is on chip at once: one half in the layer that takes most, the other in another."""


@dataclass(frozen=True)
class GraphStaggerImagesPass(ModulePass):
    """Run layers around convolutions by bands for two halves of the images, one ahead of the other.

        %1 = graph.conv %x, %w ... {graph.bands} : (tensor<8x384x14x14xbf16>, ...) -> ...
        %2 = graph.conv %1, %v ... : (tensor<8x384x14x14xbf16>, ...) -> tensor<8x1536x14x14xbf16>

    becomes

        %a = graph.slice %x starts [0, 0, 0, 0] sizes [4, 384, 14, 14] ...
        %b = graph.slice %x starts [4, 0, 0, 0] sizes [4, 384, 14, 14] ...
        %c = graph.conv %a, %w ... {graph.bands} ...
        %d = graph.conv %b, %w ... {graph.bands} ...
        %e = graph.conv %c, %v ... -> tensor<4x1536x14x14xbf16>
        %f = graph.conv %d, %v ... -> tensor<4x1536x14x14xbf16>
        %2 = graph.concat %e, %f axis 0 : ... -> tensor<8x1536x14x14xbf16>
    """

    name = "graph-stagger-images"

    budget_share: float | int = BUDGET_SHARE

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Split and order the kernels of every core function."""
        target = target_of(op)
        capacity = int(int(target.sbuf_bytes_per_partition) * self.budget_share)
        for function in core_functions(op):
            stagger_block(function.body.block, target, capacity)


def stagger_block(block: Block, target: Target, capacity_bytes: int) -> None:
    """Split and order the kernels of one block."""
    stretches = [found.from_banded() for found in _stretches(block, target)]
    stretches = [found for found in stretches if _is_worth_it(found.layers, target)]
    if listening():
        for found in stretches:
            count = len(found.layers)
            remark("passed", "stagger", f"{count} kernels run for two halves of the images", op=found.layers[0])
    # From the end: what a later stretch reads is then still what an earlier one knows that it makes.
    for found in reversed(stretches):
        for op in found.layers:
            if isinstance(anchor := anchor_of(op), ConvOp):
                anchor.attributes[KEEPS_WEIGHTS] = UnitAttr()
        split_layers(found.layers, found.images, found.images // HALVES, found.inside)
    if any(is_banded(op) for op in block.ops):
        _reorder(block, target, capacity_bytes)


@dataclass
class _Stretch:
    """Neighbouring layers that keep `images` images apart; `inside`: what they read and make of each image."""

    images: int
    layers: list[Operation] = field(default_factory=list[Operation])
    inside: set[SSAValue] = field(default_factory=set[SSAValue])

    def from_banded(self) -> _Stretch:
        """The layers from the first convolution by bands on: it reads its operand from DRAM, halves as well as all."""
        first = next((i for i, op in enumerate(self.layers) if is_banded(op)), 0)
        return _Stretch(self.images, self.layers[first:], self.inside)

    def takes(self, ops: Sequence[Operation], target: Target) -> bool:
        """Whether a kernel, or all of a chain, are further such layers, and may be split; then they are."""
        count, added = len(self.layers), list[SSAValue]()
        if all(self._takes(op, target, added) for op in ops):
            return True
        del self.layers[count:]
        self.inside.difference_update(added)
        return False

    def _takes(self, op: Operation, target: Target, added: list[SSAValue]) -> bool:
        rank = len(shape_of(op.results[0]))
        if not rank or self.images % HALVES:
            return False
        read = {v for v in op.operands if not is_constant(v) and len(shape_of(v)) == rank}
        self._add((v for v in read if shape_of(v)[:1] == (self.images,)), added)
        if not keeps_images_apart(op, self.inside, self.images) or not _is_light(op, target):
            return False
        self.layers.append(op)
        self._add(op.results, added)
        return True

    def _add(self, values: Iterable[SSAValue], added: list[SSAValue]) -> None:
        """Values are inside from now on; `added` gets those that were not."""
        new = [value for value in values if value not in self.inside]
        self.inside.update(new)
        added += new


def is_banded(op: Operation) -> bool:
    """Whether a kernel is a convolution by bands."""
    return isinstance(op, ConvOp | FusedOp) and BANDS in anchor_of(op).attributes


def _stretches(block: Block, target: Target) -> Iterator[_Stretch]:
    """The longest of them, in program order."""
    found: _Stretch | None = None
    for ops in kernels_of(block):
        if found is not None and found.takes(ops, target):
            continue
        if found is not None:
            yield found
        images = (shape_of(ops[0].results[0]) or (0,))[0]
        found = _Stretch(images)
        if images < HALVES or not found.takes(ops, target):
            found = None
    if found is not None:
        yield found


def _has_room(work: Depthwise, target: Target) -> bool:
    """Whether all bands of a convolution stay on chip beside the tensors of the layers around it."""
    images = ceil(work.images * LIVE_SHARE)
    tensor = resident_bytes((images, work.channels, work.rows, work.columns), 1, (), work.element_bytes)
    return LIVE_TENSORS * tensor + bands_bytes(work) <= BUDGET_SHARE * int(target.sbuf_bytes_per_partition)


def _is_light(op: Operation, target: Target) -> bool:
    """Whether the weights of a layer could be loaded for each half before the layer has been computed."""
    weights = [v for v in op.operands if is_constant(v)]
    size_bytes = sum(prod(shape_of(v)) * spec_of(v)[0].size_bytes for v in weights)
    if is_banded(op):
        return (work := depthwise_of(op)) is not None and _has_room(work, target)
    if not isinstance(anchor_of(op), ConvOp | MatMulOp):
        return True
    rate = min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns))
    return HALVES * size_bytes / rate <= engine_ns(op, target)


def _is_worth_it(layers: Sequence[Operation], target: Target) -> bool:
    """Whether layers have convolutions by bands, whose transfers for halves hide behind the engines' work."""
    banded = [work for op in layers if is_banded(op) and (work := depthwise_of(op)) is not None]
    if not banded:
        return False
    least = ISSUE_SHARE * int(target.min_issue_cycles)
    if any(work.images // HALVES * work.out_columns < least for work in banded):
        return False
    halves = [replace(work, images=work.images // HALVES) for work in banded]
    moved = sum(HALVES * (transfers_ns(half, target) + bands_ns(half, target)) for half in halves)
    return moved <= TRANSFER_SHARE * sum(_busy_ns(op, target) for op in layers)


def _busy_ns(op: Operation, target: Target) -> float:
    """Time of the busiest engine for a kernel."""
    if isinstance(op, SliceOp | ConcatOp):
        return 0.0
    if is_banded(op) and (work := depthwise_of(op)) is not None:
        return products_ns(work, target)
    return engine_ns(op, target)


def kernels_of(block: Block) -> list[list[Operation]]:
    """The kernels of a block in order, those of a chain together."""
    layers = [op for op in block.ops if is_computed(op)]
    together = {op: chain for chain in chains(layers) for op in chain}
    return [together.get(op, [op]) for op in layers if op not in together or together[op][0] is op]


def _reorder(block: Block, target: Target, capacity_bytes: int) -> None:
    """Bring the kernels of a block into the order of `staggered`, constants before all of them."""
    kernels = kernels_of(block)
    number = {op: i for i, ops in enumerate(kernels) for op in ops}
    tasks = [_task(ops, number, target) for ops in kernels]
    last = block.last_op
    assert last is not None
    rest = [op for op in block.ops if op not in number and op is not last]
    for op in [*rest, *(op for i in staggered(tasks, capacity_bytes) for op in kernels[i])]:
        op.detach()
        block.insert_op_before(op, last)


def _task(ops: Sequence[Operation], number: dict[Operation, int], target: Target) -> Task:
    """A kernel, or a chain of them."""
    op = ops[-1]
    owners = (v.owner for op in ops for v in op.operands)
    after = frozenset(number[owner] for owner in owners if isinstance(owner, Operation) and owner in number)
    after -= {number[op]}
    size = 0
    for value in op.results:
        dtype, shape = spec_of(value)
        if len(shape) > 1 and not comes_from_dram(value) and not isinstance(op, SliceOp | ConcatOp):
            size += resident_bytes(shape, 1, (), dtype.size_bytes)
    if not is_banded(op) or (work := depthwise_of(op)) is None:
        return Task(after, sum(_busy_ns(op, target) for op in ops), result_bytes=size)
    wait = transfers_ns(work, target) / 2 + 2 * float(target.dma_start_ns + target.dma_completion_ns)
    filters = next(v for v in op.operands if is_constant(v) and len(shape_of(v)) == len(shape_of(op.results[0])))
    return Task(after, _busy_ns(op, target), wait, wait, size, filters, bands_ns(work, target))
