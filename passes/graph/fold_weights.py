"""`graph-fold-weights`: what is computed of weights alone, as recipes that are evaluated when the weights are laid out.

Given graph-level functions, leaves operators on weights and constants in `graph.derived_weight` operators of the module
and a `graph.weight` in their place. Nothing is evaluated, so no weight is read. Equal recipes are one recipe, recipes
that nothing refers to any more are dropped, and names follow from the program, so that they are the same every time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import (
    MAX_CONSTANT_BYTES,
    BinaryOp,
    CastOp,
    CompareOp,
    ComputeOp,
    ConstantOp,
    DerivedWeightOp,
    GatherOp,
    ReduceOp,
    UnaryOp,
    WeightOp,
    YieldOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import element_count
from neuron_dialects.graph.work import MODEL_ELEMENTS, model_elements
from neuron_dialects.neuron import layer_weights

GROWTH_LIMIT = 2
"""A result of more than this many times its operands' elements is computed on the device instead of being stored."""

MOST_GATHERED_BYTES = 4 * 1024 * 1024
"""A result that is gathered is stored up to this size, however small the table: the DMA takes rows one by one."""


@dataclass(frozen=True)
class GraphFoldWeightsPass(ModulePass):
    """Outline computations on weights into recipes.

        %w = graph.weight @w : tensor<8x4xf32>
        %f = graph.weight @f : tensor<8x1xf32>
        %0 = graph.binary mul %w, %f : (tensor<8x4xf32>, tensor<8x1xf32>) -> tensor<8x4xf32>

    becomes

        %0 = graph.weight @w$mul : tensor<8x4xf32>

    and, in the module,

        graph.derived_weight @w$mul : tensor<8x4xf32> {
          %w = graph.weight @w ...
          ...
          graph.yield %0 : tensor<8x4xf32>
        }

    What makes a weight much larger, a broadcast above all, stays where it is.
    """

    name = "graph-fold-weights"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fold in every function of the module."""
        recipes = Recipes(op)
        for function in [child for child in op.ops if isinstance(child, FuncOp)]:
            for block in function.body.blocks:
                fold_block(block, recipes)
        recipes.drop_unused()


class Recipes:
    """The derived weights of a module: finds an equal one, or adds one under a free name."""

    def __init__(self, module: ModuleOp) -> None:
        self._module = module
        self._names: dict[int, str] = {}
        self._key_numbers: dict[tuple[object, ...], int] = {}
        self._taken = {op.sym_name.data for op in module.ops if isinstance(op, FuncOp | DerivedWeightOp)}
        self._taken |= {op.weight_name for op in module.walk() if isinstance(op, WeightOp)}
        self._counts: dict[str, int] = {}
        for op in module.ops:
            if isinstance(op, DerivedWeightOp):
                self._names.setdefault(self._key(op.body.block.ops), op.sym_name.data)

    def add(self, body: Block, root: Operation) -> str:
        """The name of the weight that `body` computes, which ends with graph.yield of what `root` computes."""
        key = self._key(body.ops)
        if key not in self._names:
            self._names[key] = self._free_name(body, root)
            region = Region(body)
            result = root.results[0].type
            recipe = DerivedWeightOp.create(
                properties={"sym_name": StringAttr(self._names[key]), "type": result},
                regions=[region],
                location=root.location,
            )
            self._module.body.block.add_op(recipe)
        return self._names[key]

    def add_of(self, root: Operation) -> str:
        """The name of the weight that `root` computes, of weights and constants alone."""
        return self.add(_recipe_body(root), root)

    def drop_unused(self) -> None:
        """Erase the recipes that no function refers to, directly or through other recipes."""
        recipes = {op.sym_name.data: op for op in self._module.ops if isinstance(op, DerivedWeightOp)}
        pending: list[Operation] = [op for op in self._module.ops if not isinstance(op, DerivedWeightOp)]
        while pending:
            owner = pending.pop()
            names = [op.weight_name for op in owner.walk() if isinstance(op, WeightOp)]
            if isinstance(owner, FuncOp):
                names += [name for row in layer_weights(owner).values() for name in row]
            pending += [recipe for name in names if (recipe := recipes.pop(name, None)) is not None]
        for recipe in recipes.values():
            recipe.detach()
            recipe.erase()

    def _key(self, ops: Iterable[Operation]) -> int:
        """A number that two bodies share exactly if they compute the same from the same weights."""
        numbers: dict[SSAValue, int] = {}
        number = 0
        for op in ops:
            properties = tuple(sorted(op.properties.items()))
            key = (op.name, properties, op.result_types, tuple(numbers[operand] for operand in op.operands))
            number = self._key_numbers.setdefault(key, len(self._key_numbers))
            numbers.update((result, number) for result in op.results)
        return number

    def _free_name(self, body: Block, root: Operation) -> str:
        """The first weight's name and the last operator's, as in `w$mul`, and a number if that is taken."""
        first = next((op.weight_name for op in body.ops if isinstance(op, WeightOp)), "constant")
        stem = f"{first}${_mnemonic(root)}"
        count = self._counts.get(stem, 0) + 1
        name = stem if count == 1 else f"{stem}.{count}"
        while name in self._taken:
            count += 1
            name = f"{stem}.{count}"
        self._counts[stem] = count
        self._taken.add(name)
        return name


def fold_block(block: Block, recipes: Recipes) -> None:
    """Replace what a block computes of weights and constants by weights of its own."""
    known: set[Operation] = set()
    for op in block.ops:
        if isinstance(op, WeightOp | ConstantOp) or _is_foldable(op, known):
            known.add(op)
    roots = [op for op in block.ops if op in known and isinstance(op, ComputeOp) and _is_root(op, known)]
    for root in roots:
        outline(root, block, recipes)
    for op in reversed(list(block.ops)):
        if op in known and all(result.first_use is None for result in op.results):
            block.erase_op(op)


def outline(root: Operation, block: Block, recipes: Recipes) -> None:
    """Let a weight stand for what `root` computes of weights and constants; nothing uses the op afterwards."""
    weight = WeightOp(recipes.add_of(root), root.results[0].type)
    weight.location = root.location
    if elements := _model_elements(root):
        weight.attributes[MODEL_ELEMENTS] = IntegerAttr(elements, i64)
    weight.result.name_hint = root.results[0].name_hint
    block.insert_op_before(weight, root)
    # Recipes of later roots see a weight here.
    root.results[0].replace_all_uses_with(weight.result)


def _is_foldable(op: Operation, known: set[Operation]) -> bool:
    """Whether an operator computes something of known values that is worth storing."""
    if not isinstance(op, ComputeOp) or len(op.results) != 1:
        return False
    if not all(operand.owner in known for operand in op.operands):
        return False
    dtype, shape = spec_of(op.results[0])
    given = sum(
        1 if isinstance(operand.owner, ConstantOp) and operand.owner.is_splat else element_count(shape_of(operand))
        for operand in op.operands
    )
    size = element_count(shape)
    most_bytes = MOST_GATHERED_BYTES if isinstance(op, GatherOp) else MAX_CONSTANT_BYTES
    return size * dtype.size_bytes <= most_bytes or size <= GROWTH_LIMIT * given


def _is_root(op: Operation, known: set[Operation]) -> bool:
    """Whether a foldable operator becomes a weight of its own: others than one foldable operator use it."""
    users = {use.operation for use in op.results[0].uses}
    return len(users) > 1 or any(user not in known for user in users)


def _model_elements(root: Operation) -> int:
    """Elements of the model's weights that a computation reads, if some of these were filled up with zeros; else 0."""
    read: dict[Operation, int] = {}
    pending, seen, filled = [root], {root}, False
    while pending:
        for operand in pending.pop().operands:
            owner = operand.owner
            if isinstance(owner, WeightOp):
                filled |= MODEL_ELEMENTS in owner.attributes
                read[owner] = model_elements(operand)
            elif isinstance(owner, Operation) and owner not in seen:
                seen.add(owner)
                pending.append(owner)
    return sum(read.values()) if filled else 0


def _recipe_body(root: Operation) -> Block:
    """A block that computes what `root` computes, from the weights and constants that this is computed of."""
    order: list[Operation] = []
    seen: set[Operation] = set()
    pending: list[tuple[Operation, bool]] = [(root, False)]
    while pending:
        op, operands_done = pending.pop()
        if operands_done:
            order.append(op)
        elif op not in seen:
            seen.add(op)
            pending.append((op, True))
            owners = [operand.owner for operand in op.operands]
            pending.extend((owner, False) for owner in reversed(owners) if isinstance(owner, Operation))
    values: dict[SSAValue, SSAValue] = {}
    body = Block([op.clone(values) for op in order])
    yielded = YieldOp(values[root.results[0]])
    yielded.location = root.location
    body.add_op(yielded)
    return body


def _mnemonic(op: Operation) -> str:
    """A short name of what an operator does: its kind, the type it casts to, or its own name."""
    match op:
        case UnaryOp() | BinaryOp() | CompareOp() | ReduceOp():
            return op.kind.data.value
        case CastOp():
            return spec_of(op.result)[0].name
        case _:
            return op.name.partition(".")[2]
