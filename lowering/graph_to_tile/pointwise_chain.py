"""Fusion of pointwise chains into few instructions, driven by a table of patterns.

A chain is a run of operators in which each uses only the one before it. Its operators become steps on one running value
(`steps_of`): an ALU operator with another operand, or a function of the scalar engine. `PATTERNS` says which runs of
steps one instruction can do; `emit_chain` takes the longest at each point. For example, with a column c and numbers s
and t:

    x + c, relu                     tensor_scalar (x add c) maximum 0
    x * s, + t                      tensor_scalar (x multiply s) add t
    x * s, + c, gelu                activation gelu(x * s + c)
    x * s, + tile                   scalar_tensor_tensor (x multiply s) add tile

Inner results of a chain, but for products of narrow tiles, are not rounded to a narrow type; a cast is a step only at
the end of a chain, where it does round.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.emitter import Emitter, Operand
from lowering.graph_to_tile.pointwise_binary import ALU, inverse
from lowering.graph_to_tile.pointwise_unary import FUNCTIONS, alu_steps
from lowering.graph_to_tile.view import View
from neuron_dialects.dtypes import BF16, F32
from neuron_dialects.graph import BinaryKind, BinaryOp, CastOp, ClipOp, UnaryOp, spec_of


@dataclass(frozen=True)
class Step:
    """running = running op operand (operand op running if `reverse`), or, without an operand, op(running)."""

    op: str
    operand: Operand | None = None
    reverse: bool = False
    alpha: float = 0.0

    @property
    def is_function(self) -> bool:
        """Whether it is a function of the scalar engine."""
        return self.operand is None

    @property
    def is_scalar(self) -> bool:
        """Whether it is an ALU step with a number or a column."""
        return isinstance(self.operand, float) or (isinstance(self.operand, View) and self.operand.is_column)

    @property
    def is_tile(self) -> bool:
        """Whether it is an ALU step with a whole tile."""
        return not self.is_function and not self.is_scalar


_FUSED_BINARY = (BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MUL, BinaryKind.MAX, BinaryKind.MIN)


def is_step(op: Operation, numbers: Collection[SSAValue], running: SSAValue | None = None) -> bool:
    """Whether `op` can be a step that acts on `running` (None: on one of its operands); `numbers` are known numbers."""
    if not all(spec_of(value)[0].is_float for value in (*op.operands, *op.results)):
        return False
    match op:
        case BinaryOp():
            kind = op.kind.data
            divides = kind is BinaryKind.DIV and op.b in numbers and running in (None, op.a)
            return op.a is not op.b and (kind in _FUSED_BINARY or divides)
        case UnaryOp():
            return op.kind.data in FUNCTIONS or alu_steps(op.kind.data, 0.0, 0.0) is not None
        case ClipOp() | CastOp():
            return True
        case _:
            return False


def chains(
    ops: Sequence[Operation], wanted: Collection[SSAValue], numbers: Collection[SSAValue], columns: Collection[SSAValue]
) -> list[list[Operation]]:
    """The ops of a group cut into chains, each in the place of its last op; what is no step is a chain of its own.

    A chain goes on while its result is used once, by a step, and is not in `wanted`; a cast ends it. `numbers` and
    `columns` are the inputs of these forms: a chain of columns ends where a tile comes in, and costs one element a row.
    """
    uses = Counter(value for op in ops for value in op.operands)
    narrow = {*numbers, *columns}
    found: dict[Operation, list[Operation]] = {}
    open_chains: dict[SSAValue, Operation] = {}
    for op in ops:
        result = op.results[0]
        if all(value in narrow for value in op.operands) and result not in wanted:
            narrow.add(result)
        chain = [op]
        for value in op.operands:
            same_form = (value in narrow) == (result in narrow)
            if value in open_chains and same_form and is_step(op, numbers, value):
                chain = [*found.pop(open_chains.pop(value)), op]
                break
        found[op] = chain
        if is_step(op, numbers) and not isinstance(op, CastOp) and uses[result] == 1 and result not in wanted:
            open_chains[result] = op
    return list(found.values())


def head_operand(op: Operation, operands: Mapping[SSAValue, Operand]) -> SSAValue:
    """The operand that a chain's first op starts from: what it divides, else a tile before a column before a number."""
    if isinstance(op, BinaryOp) and op.kind.data is BinaryKind.DIV:
        return op.a

    def weight(value: SSAValue) -> int:
        operand = operands[value]
        return 0 if not isinstance(operand, View) else 1 if operand.is_column else 2

    return max(op.operands, key=weight)


def steps_of(chain: Sequence[Operation], head: SSAValue, operands: Mapping[SSAValue, Operand]) -> list[Step]:
    """The steps of a chain of ops that starts from the value `head`."""
    steps: list[Step] = []
    running = head
    for op in chain:
        steps.extend(_op_steps(op, running, operands))
        running = op.results[0]
    return steps


def _op_steps(op: Operation, running: SSAValue, operands: Mapping[SSAValue, Operand]) -> list[Step]:
    match op:
        case UnaryOp():
            alpha, beta = parameters(op)
            if op.kind.data in FUNCTIONS:
                return [Step(FUNCTIONS[op.kind.data], alpha=alpha)]
            return [Step(name, number) for name, number in alu_steps(op.kind.data, alpha, beta) or ()]
        case ClipOp():
            bounds = (("maximum", op.minimum), ("minimum", op.maximum))
            return [Step(name, bound.value.data) for name, bound in bounds if bound is not None]
        case BinaryOp():
            other = operands[op.b if op.a is running else op.a]
            if op.kind.data is BinaryKind.DIV:
                assert not isinstance(other, View)
                return [Step("multiply", inverse(other))]
            return [Step(ALU[op.kind.data], other, reverse=op.kind.data is BinaryKind.SUB and op.b is running)]
        case _:
            return []


def parameters(op: UnaryOp) -> tuple[float, float]:
    """(alpha, beta) of a unary operator; 0 where it has none."""
    alpha, beta = (attr.value.data if attr is not None else 0.0 for attr in (op.alpha, op.beta))
    return alpha, beta


@dataclass(frozen=True)
class Pattern:
    """Steps that one instruction does: `length` counts how many of the next steps match, `emit` writes them."""

    name: str
    length: Callable[[Sequence[Step]], int]
    emit: Callable[[Emitter, View, View, Sequence[Step]], None]


def _affine_steps(steps: Sequence[Step]) -> int:
    """Number of leading steps of the form [* scale] [+ bias], with numbers or columns."""
    count = 0
    for name in ("multiply", "add"):
        if count < len(steps) and steps[count].op == name and steps[count].is_scalar:
            count += 1
    return count


def _activation_length(steps: Sequence[Step]) -> int:
    """[* scale] [+ bias] function."""
    count = _affine_steps(steps)
    return count + 1 if count < len(steps) and steps[count].is_function else 0


def _emit_activation(e: Emitter, dst: View, src: View, steps: Sequence[Step], row_sum: View | None = None) -> None:
    scale: Operand = 1.0
    bias: Operand | None = None
    for step in steps[:-1]:
        assert step.operand is not None
        if step.op == "multiply":
            scale = step.operand
        else:
            bias = step.operand
    e.function(dst, src, steps[-1].op, scale, bias, steps[-1].alpha, row_sum)


def _scalar_tensor_length(steps: Sequence[Step]) -> int:
    """op scalar, op tile."""
    return 2 if len(steps) >= 2 and steps[0].is_scalar and steps[1].is_tile else 0


def _emit_scalar_tensor(e: Emitter, dst: View, src: View, steps: Sequence[Step]) -> None:
    first, second = steps
    assert first.operand is not None
    assert isinstance(second.operand, View)
    e.scalar_tensor(dst, src, first.op, first.operand, second.op, second.operand, first.reverse, second.reverse)


def _scalars_length(steps: Sequence[Step]) -> int:
    """op scalar, op scalar."""
    return 2 if len(steps) >= 2 and steps[0].is_scalar and steps[1].is_scalar else 0


def _emit_scalars(e: Emitter, dst: View, src: View, steps: Sequence[Step]) -> None:
    first, second = steps
    assert first.operand is not None
    assert second.operand is not None
    e.scalar(dst, src, first.op, first.operand, second.op, second.operand, first.reverse, second.reverse)


def _emit_alu(e: Emitter, dst: View, src: View, steps: Sequence[Step]) -> None:
    (step,) = steps
    assert step.operand is not None
    first, second = (step.operand, src) if step.reverse else (src, step.operand)
    e.alu(dst, first, second, step.op)


def _relu_length(steps: Sequence[Step]) -> int:
    """[* scale] [+ bias] relu."""
    count = _affine_steps(steps)
    relu = count < len(steps) and (steps[count].op, steps[count].operand) == ("maximum", 0.0)
    return count + 1 if relu else 0


def _emit_relu(e: Emitter, dst: View, src: View, steps: Sequence[Step]) -> None:
    _emit_activation(e, dst, src, [*steps[:-1], Step("relu")])


def _summed_steps(steps: Sequence[Step]) -> Sequence[Step] | None:
    """The steps of one instruction as an activation, which can sum up its rows; None where they are none."""
    if _activation_length(steps) == len(steps):
        return steps
    if _relu_length(steps) == len(steps):
        return [*steps[:-1], Step("relu")]
    return [*steps, Step("copy")] if _affine_steps(steps) == len(steps) else None


PATTERNS: tuple[Pattern, ...] = (
    Pattern("activation", _activation_length, _emit_activation),
    Pattern("scalar_tensor_tensor", _scalar_tensor_length, _emit_scalar_tensor),
    Pattern("tensor_scalar", _scalars_length, _emit_scalars),
    Pattern("alu", lambda steps: 0 if steps[0].is_function else 1, _emit_alu),
    Pattern("relu", _relu_length, _emit_relu),
)
"""What one instruction can do; of several that match equally many steps the first is taken: a relu goes to the scalar
engine where the vector engine would need a second pass, as behind a normalisation."""

EVICTION_PATTERNS: tuple[Pattern, ...] = (PATTERNS[-1], *PATTERNS)
"""The same for a source in PSUM: a relu goes to the scalar engine, which has its own path there and is rarely busy."""


def fused_chain(steps: Sequence[Step], from_psum: bool = False) -> list[tuple[Pattern, Sequence[Step]]]:
    """The steps cut into instructions, greedily from the front; `from_psum` says where the first reads from.

    Sums are taken in an order that needs fewest: x + tile + column is (x + column) + tile.
    """
    given = _cut(steps, from_psum)
    columns_first = _cut(_columns_first(steps), from_psum)
    return columns_first if len(columns_first) < len(given) else given


def _columns_first(steps: Sequence[Step]) -> list[Step]:
    """The same steps with the columns and numbers of each sum before its tiles."""
    ordered: list[Step] = []
    for is_sum, run in groupby(steps, lambda step: step.op == "add"):
        found = list(run)
        ordered += sorted(found, key=lambda step: step.is_tile) if is_sum else found
    return ordered


def _cut(steps: Sequence[Step], from_psum: bool) -> list[tuple[Pattern, Sequence[Step]]]:
    """The steps as instructions in this order."""
    instructions: list[tuple[Pattern, Sequence[Step]]] = []
    position = 0
    while position < len(steps):
        rest = steps[position:]
        patterns = EVICTION_PATTERNS if from_psum and position == 0 else PATTERNS
        pattern = max(patterns, key=lambda candidate: candidate.length(rest))
        length = pattern.length(rest)
        instructions.append((pattern, rest[:length]))
        position += length
    return instructions


def _inner_dtype(dst: View, src: View, steps: Sequence[Step], later: Sequence[Step]) -> str:
    """Type of a value that steps leave for `later` ones.

    A product of two bf16 tiles on its way to a third is left in bf16, unless a tile is added to it: it is rounded no
    more than they are, and the vector engine takes half of the time where all it reads and writes is bf16 in SBUF.
    """
    (step, *others) = steps
    if others or step.op != "multiply" or not isinstance(step.operand, View) or not step.is_tile:
        return F32.name
    narrow = all(view.dtype == BF16.name and view.space == "sbuf" for view in (src, step.operand, dst))
    return BF16.name if narrow and not any(following.is_tile for following in later) else F32.name


def emit_chain(e: Emitter, dst: View, src: Operand, steps: Sequence[Step], row_sum: View | None = None) -> None:
    """dst = src taken through the steps; values between instructions are f32, but for products of narrow tiles.

    `row_sum` [P, 1] receives the sums of the rows of dst: with the last instruction, where the scalar engine can do
    that one, or from another one behind it.
    """
    if not isinstance(src, View):
        src = e.filled(dst, src)
    instructions = fused_chain(steps, src.space == "psum")
    if not instructions:
        e.assign(dst, src)
    for number, (pattern, part) in enumerate(instructions):
        is_last = number == len(instructions) - 1
        later = [step for _, following in instructions[number + 1 :] for step in following]
        target = dst if is_last else e.temp(dst, _inner_dtype(dst, src, part, later), rotating=True)
        if is_last and row_sum is not None and (summed := _summed_steps(part)) is not None:
            _emit_activation(e, target, src, summed, row_sum)
            return
        pattern.emit(e, target, src, part)
        src = target
    if row_sum is not None:
        e.total(row_sum, dst)
