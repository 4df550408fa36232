"""`convert-tile-to-nisa`: every tile op becomes one instruction with an engine, loops and buffers stay as they are.

Given: core functions of tile ops. Leaves behind: the same functions in nisa form 1 (program order, symbolic buffers).
Views of too many dimensions are cut into loops; engines are chosen among the legal ones by load; DMAs are dealt to
rings, loads and stores triggered from different streams so that a store waiting for its data holds no load back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xdsl.context import Context
from xdsl.dialects import arith, func, scf
from xdsl.dialects.builtin import IndexType, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from lowering.tile_to_nisa.legalize import cut, needs_split
from lowering.tile_to_nisa.selection import EngineBalance, ahead, choices
from neuron_dialects import nisa, tile
from neuron_dialects.access import AccessPattern
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.isa import INSTRUCTIONS, Instruction, Operand
from neuron_dialects.loops import trip_count
from neuron_dialects.neuron import core_functions, location_name, target_of
from neuron_dialects.target import Target

LOAD_RINGS, STORE_RINGS = 4, 2
"""DMA rings that loads and stores are dealt to."""


@dataclass(frozen=True)
class ConvertTileToNisaPass(ModulePass):
    """Choose an instruction and an engine for each tile op.

        tile.activation dst %y[0:128][0 : 64] data %x[0:128][0 : 64] {func = exp}
        tile.store dst %out[0 : 128 step 64, 64] src %y[0:128][0 : 64]

    becomes

        nisa.activation on act dst %y[0:128][0 : 64] data %x[0:128][0 : 64] {func = exp}
        nisa.dma_copy on pool ring store0 dst %out[0 : 128 step 64, 64] src %y[0:128][0 : 64]
    """

    name = "convert-tile-to-nisa"

    balance: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rebuild the body of every core function that holds tile ops."""
        for function in core_functions(op):
            with in_segment(function.sym_name.data):
                _Converter(target_of(op), self.balance).function(function)


@dataclass
class _Converter:
    """State of one function's conversion. `balances`: whether load decides among engines, or the first one works."""

    target: Target
    balances: bool = True
    values: dict[SSAValue, SSAValue] = field(default_factory=dict)
    constants: dict[int, SSAValue] = field(default_factory=dict)
    loads: int = 0
    stores: int = 0

    def function(self, function: func.FuncOp) -> None:
        old = function.body.block
        new = Block(arg_types=[a.type for a in old.args])
        self.top = new
        self.balance = EngineBalance(self.target)
        for before, after in zip(old.args, new.args, strict=True):
            after.name_hint = before.name_hint
            self.values[before] = after
        self.block(old, new, 1, top=True)
        function.body.detach_block(old)
        old.erase(safe_erase=False)
        function.body.add_block(new)

    def block(self, old: Block, new: Block, executions: int, top: bool = False) -> None:
        for op in old.ops:
            if top and isinstance(op, scf.ForOp):
                self.balance.new_kernel()
            self.operation(op, new, executions)

    def operation(self, op: Operation, new: Block, executions: int) -> None:
        if isinstance(op, tile.TileOp):
            self.tile_op(op, new, executions)
        elif isinstance(op, tile.AllocOp):
            made = nisa.AllocOp(op.buffer.type, op.copies.value.data, name=op.buffer.name_hint)
            self.replace(op, made, new)
        elif isinstance(op, tile.ParamOp):
            self.replace(op, nisa.ParamOp(op.symbol.data, op.buffer.type), new)
        elif isinstance(op, scf.ForOp):
            self.loop(op, new, executions)
        else:
            clone = op.clone(self.values)
            clone.location = op.location
            new.add_op(clone)

    def replace(self, old: Operation, made: Operation, block: Block) -> None:
        made.location = old.location
        made.results[0].name_hint = old.results[0].name_hint
        block.add_op(made)
        self.values[old.results[0]] = made.results[0]

    def loop(self, op: scf.ForOp, new: Block, executions: int) -> None:
        body = Block(arg_types=[IndexType()])
        body.args[0].name_hint = op.body.block.args[0].name_hint
        self.values[op.body.block.args[0]] = body.args[0]
        made = scf.ForOp(self.values[op.lb], self.values[op.ub], self.values[op.step], [], Region(body))
        made.location = op.location
        new.add_op(made)
        self.block(op.body.block, body, executions * trip_count(op))

    def tile_op(self, op: tile.TileOp, block: Block, executions: int) -> None:
        indices = [self.values[v] for v in op.indices]
        views = [(role, self.values[buffer], pattern) for role, (buffer, pattern) in op.views.items()]
        self.emit(op, views, indices, dict(op.fields.data), block, executions)

    def emit(
        self,
        op: tile.TileOp,
        views: list[tuple[str, SSAValue, AccessPattern]],
        indices: list[SSAValue],
        fields: Mapping[str, Any],
        block: Block,
        executions: int,
    ) -> None:
        """One instruction, or a loop around it when its views have too many dimensions."""
        definition = INSTRUCTIONS[op.INSTRUCTION]
        tiles = [i for i, (role, _, _) in enumerate(views) if definition.operand(role).shape == "tile"]
        if needs_split([p for _, _, p in views], definition.is_dma):
            piece = cut([views[i][2] for i in tiles], len(indices))
            if piece is None:
                raise NeuronError(
                    "NX-ISA-002",
                    f"{op.name}: access patterns of more than 4 dimensions with no common outer dimension",
                    node=location_name(op.location),
                )
            trips, patterns = piece
            body = Block(arg_types=[IndexType()])
            block.add_op(scf.ForOp(self.constant(0), self.constant(trips), self.constant(1), [], Region(body)))
            inner = list(views)
            for i, pattern in zip(tiles, patterns, strict=True):
                inner[i] = (views[i][0], views[i][1], pattern)
            self.emit(op, inner, [*indices, body.args[0]], fields, body, executions * trips)
            body.add_op(scf.YieldOp())
            return
        extra: dict[str, Attribute] = {}
        if definition.is_dma:
            chosen_name = definition.name
            chosen_fields = dict(fields)
            engine, ring = self.ring(op, views)
            extra = {"engine": StringAttr(engine), "ring": StringAttr(ring)}
        else:
            ids: dict[SSAValue, int] = {}
            operands = {
                role: Operand(space_of(b), dtype_name_of(b), p, ids.setdefault(b, len(ids))) for role, b, p in views
            }
            options = choices(Instruction(definition.name, "", operands, fields), self.target)
            if prepares_weights(op):
                options = ahead(options, self.target)
            elif self.stores and is_border(op):
                storing = self.target.dma_trigger_list["store"]
                options = [option for option in options if option.engine != storing] or options
            if not options:
                raise NeuronError(
                    "NX-ISA-003",
                    f"{op.name}: no engine of target {self.target.name} executes {definition.name}",
                    node=location_name(op.location),
                )
            chosen = self.balance.choose(options if self.balances else options[:1], executions)
            chosen_name, chosen_fields = chosen.name, dict(chosen.fields)
            # Another instruction may know the same operand by another role.
            views = [(role, *_view_of(operand, operands, views)) for role, operand in chosen.operands.items()]
            extra = {"engine": StringAttr(chosen.engine)}
        block.add_op(nisa.NISA_OPS[chosen_name].make(views, indices, chosen_fields, extra, op.location))

    def ring(self, op: tile.TileOp, views: list[tuple[str, SSAValue, AccessPattern]]) -> tuple[str, str]:
        """(trigger engine, ring) of a DMA: a load when its destination is on chip, unless it takes there what was
        computed on chip.
        """
        triggers: Mapping[str, str] = self.target.dma_trigger_list
        if space_of(views[0][1]) != "dram" and not isinstance(op, tile.TILE_OPS["store"]):
            self.loads += 1
            return triggers["load"], f"load{(self.loads - 1) % LOAD_RINGS}"
        self.stores += 1
        return triggers["store"], f"store{(self.stores - 1) % STORE_RINGS}"

    def constant(self, value: int) -> SSAValue:
        if value not in self.constants:
            op = arith.ConstantOp(IntegerAttr(value, IndexType()))
            first = self.top.first_op
            if first is None:
                self.top.add_op(op)
            else:
                self.top.insert_op_before(op, first)
            self.constants[value] = op.result
        return self.constants[value]


def is_border(op: tile.TileOp) -> bool:
    """Whether the op clears part of a buffer that is loaded then.

    The load may run ahead of what stands before it, unless the op waits in the stream of a store that waits for that.
    """
    if op.INSTRUCTION != "memset":
        return False
    cleared, _ = op.views["dst"]
    users = [use.operation for use in cleared.uses]
    return any(isinstance(user, tile.TileOp) and INSTRUCTIONS[user.INSTRUCTION].is_dma for user in users)


def prepares_weights(op: tile.TileOp) -> bool:
    """Whether what the op writes is nothing but weights of the tensor engine, of which it is the only writer."""
    if op.INSTRUCTION != "tensor_tensor":
        return False
    made, _ = op.views["dst"]
    others = [use.operation for use in made.uses if use.operation is not op]
    return bool(others) and all(
        isinstance(user, tile.TileOp) and user.INSTRUCTION == "nc_matmul" and user.views["stationary"][0] is made
        for user in others
    )


def _view_of(
    operand: Operand, operands: Mapping[str, Operand], views: list[tuple[str, SSAValue, AccessPattern]]
) -> tuple[SSAValue, AccessPattern]:
    """The view that `operand` was made from."""
    position = next(i for i, known in enumerate(operands.values()) if known is operand)
    return views[position][1], views[position][2]
