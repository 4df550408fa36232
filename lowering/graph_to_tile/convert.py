"""`convert-graph-to-tile`: every core function of tensors becomes a function over DRAM buffers with loops over tiles.

Given: `func.func` with `neuron.executor = core`, graph ops, fused groups, and the layout and tiling attributes that
earlier passes decided. Leaves behind: a function of the same name whose arguments are the inputs and then the outputs
as DRAM memrefs, whose body is tile ops and `scf.for` loops; and `graph.derived_weight` recipes for weights that kernels
want packed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, IntegerAttr, ModuleOp, i64
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from lowering.graph_to_tile.builder import KernelBuilder, buffer_type
from lowering.graph_to_tile.choices import check_choices
from lowering.graph_to_tile.conv_ahead import followed_blocks
from lowering.graph_to_tile.conv_bands import loads_weights, send_rows
from lowering.graph_to_tile.conv_chain import Chain
from lowering.graph_to_tile.conv_scales import Scaled, scaled_maps
from lowering.graph_to_tile.epilogue import lower_fused
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.map_sums import summed_maps
from lowering.graph_to_tile.movement import forward_destinations, materialize
from lowering.graph_to_tile.postponed import postponed_products, value_products
from lowering.graph_to_tile.registry import kernel_of
from lowering.graph_to_tile.tensors import DramTensor, SbufTensor
from lowering.graph_to_tile.traffic import compulsory_bytes
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.graph import (
    CastOp,
    ConstantOp,
    DerivedWeightOp,
    FusedOp,
    WeightOp,
    layout_of,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import element_count, text
from neuron_dialects.graph.work import model_macs
from neuron_dialects.neuron import PIN_ATTRIBUTE, core_functions, location_name, target_of, working_target
from neuron_dialects.remarks import listening, remark
from neuron_dialects.target import Target
from neuron_dialects.tile import ParamOp
from passes.graph.chain_pixels import between, chains
from passes.graph.fuse import split_bias
from passes.graph.joined import computed_in_place, marked
from passes.graph.layout import resident_profile
from passes.graph.pieces import rows_of_piece

MACS = "neuron.macs"
"""Function attribute: multiply-adds of the model's operators."""

COMPULSORY_BYTES = "neuron.compulsory_bytes"
"""Function attribute: DRAM bytes that any program for the function must move."""

INPUT_COUNT = "neuron.input_count"


def is_tensor_function(function: func.FuncOp) -> bool:
    """Whether the function is still at graph level."""
    types = [*function.function_type.inputs.data, *function.function_type.outputs.data]
    return not any(t.name == "memref" for t in types)


@dataclass(frozen=True)
class ConvertGraphToTilePass(ModulePass):
    """Lower core functions from graph to tile ops, one kernel template per family of operators.

        func.func private @neuron_0(%x: tensor<8x64xf32>) -> tensor<8x64xf32>
            attributes {neuron.executor = #neuron.executor<core>} {
          %y = graph.unary relu %x : tensor<8x64xf32>
          func.return %y : tensor<8x64xf32>
        }

    becomes a function of `(memref<8x64xf32, #neuron.space<dram>>, memref<8x64xf32, #neuron.space<dram>>)` that loads
    tiles, computes `tile.activation ... {func = relu}` and stores them.
    """

    name = "convert-graph-to-tile"

    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self.without)

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Replace each core function that is still at graph level."""
        recipes: dict[str, DerivedWeightOp] = {}
        for function in core_functions(op):
            if is_tensor_function(function):
                # Outside of the segment: what is too large for a core's DRAM is no work for the host either.
                _check_sizes(function.body.block, target_of(op))
                with in_segment(function.sym_name.data):
                    lower_function(op, function, recipes, frozenset(self.without))


def _check_sizes(body: Block, target: Target) -> None:
    """NeuronError NX-MEM-001 for a tensor that a core's DRAM cannot hold, before anything is made for it."""
    limit = int(target.dram_bytes)
    for op in body.walk():
        for value in (*op.operands, *op.results):
            dtype, shape = spec_of(value)
            size = element_count(shape) * dtype.size_bytes
            if size > limit:
                raise NeuronError(
                    "NX-MEM-001",
                    f"a tensor of {text(shape)} has {size} bytes, a core's DRAM {limit}",
                    node=location_name(op.location),
                    help="compile for smaller inputs",
                )


def _check_layouts(ops: Sequence[Operation]) -> None:
    """NeuronError NX-IR-001 for a layout that does not fit its tensor: it may have been written by hand."""
    for op in ops:
        for result in op.results:
            layout = layout_of(result)
            if layout is not None and (problem := layout.misfit(len(spec_of(result)[1]))):
                raise NeuronError("NX-IR-001", f"{op.name}: {problem}", node=location_name(op.location))


def _place_results(
    k: Kernel, ops: Sequence[Operation], returned: Sequence[SSAValue], tensors: Sequence[DramTensor]
) -> list[tuple[SSAValue, DramTensor]]:
    """Give results the tensors that they are stored to; what was not the first result of its value is left over."""
    pending: list[tuple[SSAValue, DramTensor]] = []
    for value, tensor in zip(returned, tensors, strict=True):
        if isinstance(value.owner, Operation) and value not in k.destinations:
            k.destinations[value] = tensor
        elif isinstance(value, BlockArgument):
            # What a stage only gives on does not wait for what it computes.
            k.b.location = ops[0].location
            materialize(k, k.dram(value), tensor)
        else:
            pending.append((value, tensor))
    return pending


def lower_function(
    module: ModuleOp,
    function: func.FuncOp,
    recipes: dict[str, DerivedWeightOp],
    without: frozenset[str] = frozenset(),
) -> None:
    """Replace one core function by its tile form; `recipes` are the derived weights added to the module so far.

    `without`: choices of kernels that are left out.
    """
    body = function.body.block
    split_bias(body)
    returned = body.last_op
    assert isinstance(returned, func.ReturnOp)
    specs = [spec_of(v) for v in (*body.args, *returned.arguments)]
    types = [buffer_type(shape or (1,), dtype.name, "dram") for dtype, shape in specs]
    block = Block(arg_types=types)
    target = working_target(function, target_of(module))
    pins = PIN_ATTRIBUTE in function.attributes
    builder = KernelBuilder(block, target, rotates="rotation" not in without)
    k = Kernel(builder, target, module, recipes=recipes, pins_weights=pins, without=without)
    tensors = [
        DramTensor.dense(k.b.adopt(arg, shape or (1,), dtype.name), shape)
        for arg, (dtype, shape) in zip(block.args, specs, strict=True)
    ]
    for old, new, tensor in zip(body.args, block.args, tensors, strict=False):
        new.name_hint = old.name_hint
        k.tensors[old] = tensor
    ops = list(body.ops)
    pending = _place_results(k, ops, returned.arguments, tensors[len(body.args) :])
    _check_layouts(ops)
    for join in marked(ops):
        k.joined |= dict.fromkeys((op.result for op in join.all), (join.whole.result, 0))
        k.joined |= {value: (join.whole.result, first) for value, first in computed_in_place(join)}
    forward_destinations(k, ops)
    _lower_ops(k, ops)
    finish_outputs(k, pending)
    erase_unused_parameters(block)
    block.add_op(func.ReturnOp())
    lowered = func.FuncOp(
        function.sym_name.data, FunctionType.from_lists(types, []), Region(block), function.sym_visibility
    )
    lowered.attributes |= function.attributes | {
        INPUT_COUNT: IntegerAttr(len(body.args), i64),
        MACS: IntegerAttr(sum(model_macs(op) for op in function.walk()), i64),
        COMPULSORY_BYTES: IntegerAttr(compulsory_bytes(function), i64),
    }
    lowered.location = function.location
    parent = function.parent
    assert parent is not None
    parent.insert_op_before(lowered, function)
    parent.erase_op(function)


def cast_on_load(k: Kernel, op: CastOp) -> bool:
    """Make a cast between float types part of the loads of its result, where the operand lies in DRAM."""
    tensor = k.tensors.get(op.x)
    before, after = spec_of(op.x)[0], spec_of(op.result)[0]
    if not isinstance(tensor, DramTensor) or tensor.element or op.result in k.destinations or op.result in k.residents:
        return False
    if not (before.is_float and after.is_float and {before.name, after.name} <= {"f32", "bf16", "f16"}):
        return False
    k.alias(op.result, replace(tensor, element=after.name, symbol=None))
    return True


def finish_outputs(k: Kernel, pending: list[tuple[SSAValue, DramTensor]]) -> None:
    """Copy what is not yet in its output buffer: aliases of other memory, arguments and weights returned as such."""
    for value, tensor in pending:
        materialize(k, k.dram(value), tensor)
    for value, tensor in k.destinations.items():
        if k.tensor(value) is not tensor:
            materialize(k, k.dram(value), tensor)


def erase_unused_parameters(block: Block) -> None:
    """Erase the weights that kernels read only in derived form."""
    for op in list(block.ops):
        if isinstance(op, ParamOp) and not any(op.buffer.uses):
            block.erase_op(op)


def _lower_ops(k: Kernel, ops: Sequence[Operation]) -> None:
    """Emit all kernels in order, but for what others emit between their own work."""
    profile = resident_profile(ops)
    k.program = list(zip(ops, profile, strict=True))
    valued = value_products(k, ops, profile) if k.takes("value-products") else {}
    waiting = postponed_products(ops, profile, k.target) if k.takes("postponed-products") else {}
    followed = followed_blocks(ops, profile, k.target) if k.takes("blocks-ahead") else {}
    scaled = scaled_maps(ops, profile, k.target) if k.takes("scaled-weights") else {}
    k.summed = summed_maps(ops) if k.takes("map-sums") else set()
    chained = _chained(k, ops)
    for op, resident_bytes in zip(ops, profile, strict=True):
        k.chain = chained.get(op)
        k.resident_bytes, k.blocks_for = resident_bytes, followed.get(op)
        k.postpones_for, k.values_for = waiting.get(op), valued.get(op)
        k.bands.arrive(op.operands, k.tensors)
        waiting_loads = len(k.bands.waiting)
        if op in scaled:
            hand_scale(k, op, scaled[op])
        else:
            lower_op(k, op)
        if loads_weights(k, op):
            k.bands.begin(waiting_loads)
        send_rows(k, op)


def _chained(k: Kernel, ops: Sequence[Operation]) -> dict[Operation, Chain]:
    """The chain of each kernel that is one of several; the values between them have places for pieces alone."""
    found: dict[Operation, Chain] = {}
    for ops_of_chain in chains(ops):
        value = ops_of_chain[0].results[0]
        piece, (images, _, rows, columns) = rows_of_piece(value), shape_of(value)
        assert piece is not None
        found |= dict.fromkeys(ops_of_chain, Chain(len(ops_of_chain), images, rows, columns, piece))
        k.rings |= dict.fromkeys(between(ops_of_chain), piece)
    return found


def hand_scale(k: Kernel, op: Operation, scaled: Scaled) -> None:
    """Leave a multiplication to the weights of the convolution behind it, where its operands are on chip."""
    x, scale = k.tensor(scaled.x), k.tensor(scaled.scale)
    if not isinstance(x, SbufTensor) or not isinstance(scale, SbufTensor):
        lower_op(k, op)
        return
    k.scales[scaled.conv] = scale
    k.alias(op.results[0], x)


def lower_op(k: Kernel, op: Operation) -> None:
    """Lower one graph op with its template; an op without one is an error with the node's name."""
    if isinstance(op, func.ReturnOp):
        return
    k.b.location = op.location
    for result in op.results:
        layout = layout_of(result)
        if layout is not None and layout.is_paired:
            k.pair_places[result] = layout.halo_pairs
        elif layout is not None:
            k.residents[result] = (layout.partition_dimension, layout.halo_pairs)
    if isinstance(op, WeightOp):
        dtype, shape = spec_of(op.result)
        k.weight_types[op.weight_name] = op.result.type
        k.tensors[op.result] = DramTensor.dense(
            k.b.param(op.weight_name, shape or (1,), dtype.name), shape, op.weight_name
        )
    elif isinstance(op, ConstantOp):
        if op.is_splat:
            k.constants[op.result] = float(op.array().flat[0])
    elif isinstance(op, FusedOp):
        kinds = ", ".join(inner.name for inner in op.body.block.ops if inner.results)
        remark("analysis", "kernel", f"one kernel computes {kinds}", op=op)
        lower_fused(k, op)
    elif isinstance(op, CastOp) and k.takes("casting-loads") and cast_on_load(k, op):
        pass
    else:
        template: Callable[[Kernel, Any], None] | None = kernel_of(type(op))
        if template is None:
            raise NeuronError(
                "NX-OP-002", f"no kernel for {op.name}", node=location_name(op.location), help="run it on the host"
            )
        if listening():
            named = f"{op.name} is lowered by {template.__name__}"
            remark("analysis", "kernel", named, op=op, multiply_adds=model_macs(op))
        template(k, op)
