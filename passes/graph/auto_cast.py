"""`graph-auto-cast`: compute in a narrower float type than the model says.

Given graph-level functions, leaves f32 products as products of bf16, f16 or tf32 (mode matmult), or everything in bf16
or f16 (mode all). Functions of the host stay as they are, and so does what only the host can run, so that the pass is
best run after `graph-partition`; weights are cast by operators that `graph-fold-weights` turns into recipes. What was
cast is recorded on the function as `neuron.casts`, an array of strings node|from|to, and how each layer multiplies as
`neuron.products` (`ProductEntry`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from neuron_dialects.dtypes import BF16, F16, F32, TF32, DType, dtype_by_name, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    AttentionOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    ComputeOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    GatherOp,
    MatMulOp,
    PadOp,
    RecurrentOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    SoftmaxOp,
    TransposeOp,
    shape_of,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.support import core_support
from neuron_dialects.graph.work import KEEPS_TYPE
from neuron_dialects.neuron import EXECUTOR_ATTRIBUTE, Executor, ExecutorAttr, location_name, target_of
from neuron_dialects.remarks import listening, remark
from neuron_dialects.target import Target
from passes.graph.intervals import EXACT_INTEGERS
from passes.graph.value_ranges import interval_of, product_sum, value_ranges

CASTS_ATTRIBUTE = "neuron.casts"
"""Function attribute: an array of strings node|from|to, one for each operator that computes in another type."""

LAYERS: Mapping[type[Operation], slice] = {
    MatMulOp: slice(0, 2),
    ConvOp: slice(0, 2),
    ConvTransposeOp: slice(0, 2),
    AttentionOp: slice(0, 3),
    RecurrentOp: slice(1, 2),
}
"""Operators that the tensor engine computes, and which of their operands it multiplies; a recurrent layer casts its
state itself.
"""

PRODUCTS_ATTRIBUTE = "neuron.products"
"""Function attribute: an array of strings, one for each layer of the core (`ProductEntry`)."""

LARGEST = {"f16": 65504.0, "bf16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max), "tf32": (2 - 2.0**-10) * 2.0**127}
"""Narrow float type -> its largest finite number."""

_NEVER_OVERFLOW = (
    TransposeOp, ReshapeOp, BroadcastOp, ConcatOp, SliceOp, PadOp, GatherOp, ClipOp, SelectOp, SoftmaxOp
)  # fmt: skip
"""Operators whose results are no larger than their operands, which are finite already."""


@dataclass(frozen=True)
class GraphAutoCastPass(ModulePass):
    """Cast what is multiplied, or everything, to a narrower float type.

        %0 = graph.matmul %a, %b : (tensor<4x8xf32>, tensor<8x4xf32>) -> tensor<4x4xf32>

    becomes, with mode=matmult type=bf16,

        %1 = graph.cast %a : (tensor<4x8xf32>) -> tensor<4x8xbf16>
        %2 = graph.cast %b : (tensor<8x4xf32>) -> tensor<8x4xbf16>
        %0 = graph.matmul %1, %2 : (tensor<4x8xbf16>, tensor<8x4xbf16>) -> tensor<4x4xf32>

    The products are summed in f32, and a bias stays f32. With mode=all every f32 tensor of a function becomes the type;
    its arguments are cast at the entry and its results back at the exit, and the finite constants that f16 cannot hold
    become its largest number. tf32 is a type of the tensor engine alone: mode=all means matmult for it. With mode=none
    nothing is cast, except on a target that does not multiply f32: there it means mode=matmult type=bf16.

    Two things hold in every mode. Operands that are known to be small integers, as those of quantised layers, are cast
    to bf16, which loses nothing. And what decides an integer, from the layers or integers that it is computed of to the
    cast, is computed in f32: a number next to a tie would be rounded to the wrong side.

    With saturate=true what a narrow type cannot hold, infinities too, becomes its largest finite number, by a clip in
    front of every cast from f32 and behind every operator that computes in the narrow type. NaN stays NaN.
    """

    name = "graph-auto-cast"

    mode: Literal["matmult", "all", "none"] = "matmult"
    type: Literal["bf16", "f16", "tf32"] = "bf16"
    saturate: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Cast in every function but those of the host. NeuronError NX-PASS-002 for a type that the target lacks."""
        target = target_of(op)
        mode, dtype = self.mode, dtype_by_name(self.type)
        if mode == "none":
            mode, dtype = "matmult", (F32 if F32.name in target.matmul_dtypes else BF16)
        if dtype.name not in target.matmul_dtypes:
            raise NeuronError(
                "NX-PASS-002",
                f"graph-auto-cast: {target.name} does not multiply {dtype}",
                help=f"it multiplies {', '.join(target.matmul_dtypes)}",
            )
        host = ExecutorAttr(Executor.HOST)
        for function in op.ops:
            if isinstance(function, FuncOp) and function.attributes.get(EXECUTOR_ATTRIBUTE) != host:
                for block in function.body.blocks:
                    cast = _CastAll if mode == "all" and dtype is not TF32 else _CastLayers
                    made = cast(block, target, dtype, _integer_sums(block, op))
                    casts = made.run()
                    _record(function, CASTS_ATTRIBUTE, casts)
                    _tell_casts(function, casts)
                    if self.saturate:
                        saturate_block(block, target)
                    _record(function, PRODUCTS_ATTRIBUTE, [entry.text() for entry in made.products])


def _tell_casts(function: FuncOp, casts: Sequence[str]) -> None:
    """A remark for each layer or operator that was cast."""
    if not listening():
        return
    for entry in casts:
        node, before, after = entry.rsplit("|", 2)
        remark("passed", "cast", f"computes in {after} instead of {before}", node=node, function=function.sym_name.data)


def saturate_block(block: Block, target: Target) -> None:
    """Clip what a cast or an operator of the core would round to an infinity."""
    ranges = value_ranges(block)
    for op in list(block.ops):
        is_infinite = isinstance(op, ConstantOp) and bool(np.isinf(op.array().astype(np.float64)).any())
        if not is_infinite and (not isinstance(op, ComputeOp) or core_support(op, target) is not None):
            continue
        limit = LARGEST.get(spec_of(op.results[0])[0].name)
        if limit is None:
            continue
        if isinstance(op, CastOp):
            known = interval_of(ranges, op.x)
            if spec_of(op.x)[0] is F32 and not (known.integral and known.magnitude <= limit):
                clip = ClipOp(op.x, minimum=-limit, maximum=limit)
                block.insert_op_before(clip, op)
                op.operands = [clip.result]
                clip.location = op.location
        elif not isinstance(op, _NEVER_OVERFLOW):
            result = op.results[0]
            clip = ClipOp(result, minimum=-limit, maximum=limit)
            block.insert_op_after(clip, op)
            clip.location = op.location
            result.replace_uses_with_if(clip.result, lambda use, made=clip: use.operation is not made)


def casts_of(function: FuncOp) -> list[tuple[str, str, str]]:
    """What was cast in a function: framework node, type before and type after; empty if nothing was."""
    parts = [entry.rsplit("|", 2) for entry in _entries(function, CASTS_ATTRIBUTE)]
    return [(node, before, after) for node, before, after in parts]


@dataclass(frozen=True)
class ProductEntry:
    """How a layer of the core multiplies."""

    node: str
    """Name of the framework node, empty if unknown."""
    dtype: str
    """Element type of what is multiplied."""
    largest_sum: int | None
    """Where integers are multiplied: no sum of products exceeds this magnitude."""

    @property
    def arithmetic(self) -> str:
        """`integer`: in an integer type. `exact`: of integers in a float type, which holds them, as are all sums.
        `exact products`: the same, but sums that get beyond 2**24 are rounded to f32. `float`: rounded to the type.
        """
        if self.largest_sum is None:
            return "float"
        if not dtype_by_name(self.dtype).is_float:
            return "integer"
        return "exact" if self.largest_sum <= EXACT_INTEGERS[F32.name] else "exact products"

    def text(self) -> str:
        """The entry as it is written on the function: node|type|largest sum, which may be missing."""
        return f"{self.node}|{self.dtype}|{'' if self.largest_sum is None else self.largest_sum}"


def products_of(function: FuncOp) -> list[ProductEntry]:
    """How each layer of a function multiplies, in program order; empty before the pass ran."""
    parts = [entry.rsplit("|", 2) for entry in _entries(function, PRODUCTS_ATTRIBUTE)]
    return [ProductEntry(node, dtype, int(largest) if largest else None) for node, dtype, largest in parts]


def _entries(function: FuncOp, attribute: str) -> list[str]:
    entries = function.attributes.get(attribute)
    return [entry.data for entry in entries if isinstance(entry, StringAttr)] if isinstance(entries, ArrayAttr) else []


def _record(function: FuncOp, attribute: str, added: list[str]) -> None:
    if added:
        entries = [*_entries(function, attribute), *added]
        function.attributes[attribute] = ArrayAttr(StringAttr(entry) for entry in entries)


def _integer_sums(block: Block, module: ModuleOp) -> dict[Operation, int]:
    """The layers of a block whose operands are integers that bf16 holds, and the largest sum of each."""
    ranges = value_ranges(block, module)
    found: dict[Operation, int] = {}
    for op in block.walk():
        if isinstance(op, MatMulOp | ConvOp | ConvTransposeOp) and all(_is_f32(value) for value in op.operands[:2]):
            a, b = (interval_of(ranges, value) for value in op.operands[:2])
            if max(a.magnitude, b.magnitude) <= EXACT_INTEGERS[BF16.name]:
                sums = product_sum(op, a, b)
                if sums is not None:
                    found[op] = int(sums.magnitude)
    return found


def _deciding(block: Block) -> set[Operation]:
    """The casts of f32 to integers, and what computes their operands in f32, back to layers and to integers."""
    pending: list[Operation] = [op for op in block.ops if isinstance(op, CastOp) and spec_of(op.result)[0].is_integer]
    found: set[Operation] = set()
    while pending:
        op = pending.pop()
        if op not in found and any(_is_f32(value) for value in (*op.operands, *op.results)):
            found.add(op)
            if type(op) not in LAYERS:
                owners = (value.owner for value in op.operands if _is_f32(value))
                pending.extend(owner for owner in owners if isinstance(owner, ComputeOp))
    return found


class _Casts:
    """Casts of a block's values to one type, each made once, where it is first needed."""

    def __init__(self, block: Block, target: Target, dtype: DType, integer_sums: Mapping[Operation, int]) -> None:
        self._block = block
        self._target = target
        self._dtype = dtype
        self._integer_sums = integer_sums
        self.products: list[ProductEntry] = []
        self._made: dict[tuple[SSAValue, DType], SSAValue] = {}
        self._casts: list[str] = []

    def _cast(self, value: SSAValue, dtype: DType, user: Operation) -> SSAValue:
        """`value` as `dtype`, by a cast in front of `user`, or by one that is there already."""
        if spec_of(value)[0] is dtype:
            return value
        if (value, dtype) not in self._made:
            op: Operation = self._recast_constant(value.owner, dtype) or CastOp(value, dtype)
            op.location = value.owner.location if isinstance(value.owner, Operation) else user.location
            op.results[0].name_hint = value.name_hint
            self._block.insert_op_before(op, user)
            self._made[value, dtype] = op.results[0]
        return self._made[value, dtype]

    def _recast_constant(self, owner: Operation | Block, dtype: DType) -> ConstantOp | None:
        """A constant in the narrow type; a finite number that this cannot hold is its largest one."""
        if not isinstance(owner, ConstantOp) or dtype is TF32:
            return None
        values = owner.array()
        if dtype is F16:
            largest = np.finfo(np.float16).max
            values = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
        number = values[(0,) * values.ndim] if owner.is_splat and values.size else values
        return ConstantOp(number, dtype, values.shape)

    def _note(self, op: Operation) -> None:
        self._casts.append(f"{location_name(op.location) or op.name}|{F32}|{self._dtype}")

    def _cast_layer(self, op: Operation, dtype: DType) -> bool:
        """Cast what an f32 layer multiplies, and leave its sums and its bias; whether that may have lost something."""
        block = op.parent_block()
        assert block is not None
        self._block = block
        largest = self._integer_sums.get(op)
        part, operands = LAYERS[type(op)], list(op.operands)
        operands[part] = [self._cast(value, dtype, op) for value in operands[part]]
        op.operands = operands
        self._note_product(op, dtype, largest)
        return largest is None and dtype is not F32

    def _note_product(self, op: Operation, dtype: DType, largest: int | None = None) -> None:
        self.products.append(ProductEntry(location_name(op.location) or op.name, dtype.name, largest))

    def _is_core_layer(self, op: Operation) -> bool:
        return type(op) in LAYERS and core_support(op, self._target) is None


class _CastLayers(_Casts):
    """Mode matmult: what is multiplied is cast, and the f32 sums are kept."""

    def run(self) -> list[str]:
        """Cast; what was cast, in program order."""
        for op in list(self._block.walk()):
            if not self._is_core_layer(op):
                continue
            dtype = spec_of(op.operands[LAYERS[type(op)].start])[0]
            if dtype is not F32 or KEEPS_TYPE in op.attributes:
                self._note_product(op, dtype)
            elif self._cast_layer(op, BF16 if op in self._integer_sums else self._dtype):
                self._note(op)
        return self._casts


class _CastAll(_Casts):
    """Mode all: results become the narrow type in place; f32 comes in and goes out through casts."""

    def __init__(self, block: Block, target: Target, dtype: DType, integer_sums: Mapping[Operation, int]) -> None:
        super().__init__(block, target, dtype, integer_sums)
        self._retyped: set[SSAValue] = set()
        self._deciding = _deciding(block)

    def run(self) -> list[str]:
        """Cast; what was cast, in program order."""
        for op in list(self._block.ops):
            if isinstance(op, FusedOp):
                raise NeuronError("NX-PASS-002", "graph-auto-cast: mode all must run before graph-fuse")
            wide = op in self._deciding or op in self._integer_sums
            if wide and self._is_core_layer(op):
                multiplied = range(len(op.operands))[LAYERS[type(op)]]
                op.operands = [v if n in multiplied else self._wide(v, op) for n, v in enumerate(op.operands)]
                if self._cast_layer(op, self._dtype):
                    self._note(op)
            elif not wide and self._computes(op):
                if self._is_core_layer(op):
                    dtype = spec_of(op.operands[LAYERS[type(op)].start])[0]
                    self._note_product(op, self._dtype if _is_f32(op.results[0]) else dtype)
                op.operands = [self._narrow(value, op) for value in op.operands]
                self._retype_results(op)
            else:
                op.operands = [self._wide(value, op) for value in op.operands]
        return self._casts

    def _computes(self, op: Operation) -> bool:
        """Whether an operator is to compute in the narrow type.

        Not what runs on the host, and not what the model itself computes of narrow floats with an f32 result.
        """
        if not isinstance(op, ComputeOp) or core_support(op, self._target) is not None:
            return False
        if isinstance(op, CastOp) or not _is_f32(op.results[0]):
            return True
        return all(_is_f32(value) or value in self._retyped or not spec_of(value)[0].is_float for value in op.operands)

    def _narrow(self, value: SSAValue, user: Operation) -> SSAValue:
        return self._cast(value, self._dtype, user) if _is_f32(value) else value

    def _wide(self, value: SSAValue, user: Operation) -> SSAValue:
        return self._cast(value, F32, user) if value in self._retyped else value

    def _retype_results(self, op: Operation) -> None:
        narrowed = [result for result in op.results if _is_f32(result)]
        for result in narrowed:
            type_ = tensor_type(self._dtype, shape_of(result))
            self._retyped.add(Rewriter.replace_value_with_new_type(result, type_))
        if narrowed:
            self._note(op)


def _is_f32(value: SSAValue) -> bool:
    return dtype_of_or_none(value.type) is F32
