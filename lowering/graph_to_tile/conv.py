"""Kernel templates of graph.conv and graph.conv_transpose: which loops lower one, and over which phases.

A transposed convolution is one convolution per output phase (position modulo stride). Where a template for it fits,
maps of few channels are taken in bands of rows, or with rows in pairs or pixels in blocks on the partitions too. A
`ConvKernel` runs where it stands, piece by piece in a chain of several, or where the convolution behind it has its
blocks made.
"""

from collections.abc import Callable, Sequence

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.conv_bands import lower_bands, takes_bands
from lowering.graph_to_tile.conv_blocks import take_blocks
from lowering.graph_to_tile.conv_border import NONE, take_border
from lowering.graph_to_tile.conv_interleave import interleaved, phases_beside
from lowering.graph_to_tile.conv_kernel import ConvKernel
from lowering.graph_to_tile.conv_pairs import in_pairs, takes_pairs
from lowering.graph_to_tile.conv_parts import take_parts
from lowering.graph_to_tile.conv_phases import conv_phase, transposed_phases, triple
from lowering.graph_to_tile.conv_residual import take_residual
from lowering.graph_to_tile.conv_sums import collect_sums
from lowering.graph_to_tile.conv_weights import WeightPacking, filter_taps, is_packable
from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import ConvOp, ConvTransposeOp, ints, shape_of
from neuron_dialects.neuron import location_name
from passes.graph.conv_groups import plan_groups


def lower(k: Kernel, op: Operation, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a convolution with the pointwise `ops` behind it; its own bias was split off into one of them."""
    assert isinstance(op, ConvOp | ConvTransposeOp)
    if op.bias is not None:
        raise NeuronError(
            "NX-PASS-002",
            f"convert-graph-to-tile: {op.name} in a fused group has a bias",
            node=location_name(op.location),
            help="graph-fuse makes the bias an addition of its own",
        )
    if isinstance(op, ConvOp) and takes_bands(k, op):
        lower_bands(k, op, ops, results)
        return
    if isinstance(op, ConvOp) and takes_pairs(k, op, results):
        for plain in in_pairs(k, op, ops, results):
            ConvKernel(k, *plain, pairs=True).run()
        return
    transposed = isinstance(op, ConvTransposeOp)
    n = len(shape_of(op.w)) - 2
    settings = (
        triple(shape_of(op.w)[2:], 1),
        triple(ints(op.strides), 1),
        triple(ints(op.pads)[:n], 0),
        triple(ints(op.dilations), 1),
        triple(shape_of(op.result)[2:], 1),
    )
    phases = transposed_phases(*settings) if transposed else [conv_phase(*settings)]
    channels, outputs = shape_of(op.x)[1], shape_of(op.result)[1]
    groups = plan_groups(channels, outputs, op.groups.value.data, is_packable(k, op.w))
    packing = WeightPacking(k, op.w, groups, filter_taps(op.w), transposed)
    parts, ops = take_parts(k, ops)
    results = [op.result if value.owner not in (op, *ops) else value for value in results] if parts else results
    border, ops = take_border(k, op, ops) if groups.lane_step == LANES else (NONE, ops)
    residual, ops = take_residual(k, op, ops, results, groups, filter_taps(op.w))
    merged = phases_beside(k, op, ops, results, phases) if transposed else []
    phases = merged or phases
    epilogue = Epilogue(k, op.result, ops, results, 1, groups.lane_step, beside=1 + len(phases[0].beside))
    epilogue.prepare()
    if k.scalar(op.w) is not None:
        epilogue.fill_numbers()
    if len(phases) == 1:
        plain = residual is None and not border.ends and not parts and op not in k.scales and k.chain is None
        if plain and (blocks := take_blocks(k, op, epilogue, packing, phases[0])):
            ConvKernel(k, op, epilogue, blocks.groups, blocks.packing, blocks.phase, blocks=blocks).run()
            return
        kernel = ConvKernel(k, op, epilogue, groups, packing, phases[0], residual, parts, border=border)
        if groups.lane_step == LANES and k.chain is None:
            epilogue.sums = collect_sums(k, results, kernel.tile)
        if k.chain is not None:
            k.chain.add(k.b, kernel.stage(), kernel.bank)
        elif isinstance(op, ConvOp) and k.blocks_for is not None and (ahead := kernel.ahead()) is not None:
            k.ahead[k.blocks_for] = ahead
        else:
            kernel.run()
        return
    for part, here in interleaved(k, epilogue, phases, n):
        ConvKernel(k, op, here, groups, packing, part).run()


def _alone(k: Kernel, op: Operation) -> None:
    lower(k, op, [], [op.results[0]])


KERNELS: dict[type[Operation], Callable[[Kernel, Operation], None]] = {ConvOp: _alone, ConvTransposeOp: _alone}
"""Template by op class."""
