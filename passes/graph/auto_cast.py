"""`graph-auto-cast`: compute in a narrower float type than the model says.

Given graph-level functions, leaves f32 products as products of bf16, f16 or tf32 (mode matmult), or everything in bf16
or f16 (mode all). Functions of the host stay as they are, and so does what only the host can run, so that the pass is
best run after `graph-partition`; weights are cast by operators that `graph-fold-weights` turns into recipes. What was
cast is recorded on the function as `neuron.casts`, an array of strings node|from|to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    CastOp,
    ComputeOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    MatMulOp,
    shape_of,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.support import core_support
from neuron_dialects.neuron import Executor, ExecutorAttr, location_name, target_of
from neuron_dialects.target import Target
from passes.graph.partition import EXECUTOR_ATTRIBUTE

CASTS_ATTRIBUTE = "neuron.casts"
"""Function attribute: an array of strings node|from|to, one for each operator that computes in another type."""

LAYERS = (MatMulOp, ConvOp, ConvTransposeOp)
"""Operators whose first two operands the tensor engine multiplies."""


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
    """

    name = "graph-auto-cast"

    mode: Literal["matmult", "all", "none"] = "matmult"
    type: Literal["bf16", "f16", "tf32"] = "bf16"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Cast in every function but those of the host. NeuronError NX-PASS-002 for a type that the target lacks."""
        target = target_of(op)
        mode, dtype = self.mode, dtype_by_name(self.type)
        if mode == "none":
            if F32.name in target.matmul_dtypes:
                return
            mode, dtype = "matmult", BF16
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
                    _record(function, cast(block, target, dtype).run())


def casts_of(function: FuncOp) -> list[tuple[str, str, str]]:
    """What was cast in a function: framework node, type before and type after; empty if nothing was."""
    casts = function.attributes.get(CASTS_ATTRIBUTE)
    if not isinstance(casts, ArrayAttr):
        return []
    parts = [entry.data.rsplit("|", 2) for entry in casts if isinstance(entry, StringAttr)]
    return [(node, before, after) for node, before, after in parts]


def _record(function: FuncOp, casts: list[str]) -> None:
    if casts:
        earlier = ["|".join(cast) for cast in casts_of(function)]
        function.attributes[CASTS_ATTRIBUTE] = ArrayAttr(StringAttr(cast) for cast in (*earlier, *casts))


class _Casts:
    """Casts of a block's values to one type, each made once, where it is first needed."""

    def __init__(self, block: Block, target: Target, dtype: DType) -> None:
        self._block = block
        self._target = target
        self._dtype = dtype
        self._made: dict[tuple[SSAValue, DType], SSAValue] = {}
        self._casts: list[str] = []

    def _cast(self, value: SSAValue, dtype: DType, user: Operation) -> SSAValue:
        """`value` as `dtype`, by a cast in front of `user`, or by one that is there already."""
        if (value, dtype) not in self._made:
            op: Operation = self._recast_constant(value.owner) or CastOp(value, dtype)
            op.location = value.owner.location if isinstance(value.owner, Operation) else user.location
            op.results[0].name_hint = value.name_hint
            self._block.insert_op_before(op, user)
            self._made[value, dtype] = op.results[0]
        return self._made[value, dtype]

    def _recast_constant(self, owner: Operation | Block) -> ConstantOp | None:
        """A constant in the narrow type; a finite number that this cannot hold is its largest one."""
        if not isinstance(owner, ConstantOp) or self._dtype is TF32:
            return None
        values = owner.array()
        if self._dtype is F16:
            largest = np.finfo(np.float16).max
            values = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
        number = values[(0,) * values.ndim] if owner.is_splat and values.size else values
        return ConstantOp(number, self._dtype, values.shape)

    def _note(self, op: Operation) -> None:
        self._casts.append(f"{location_name(op.location) or op.name}|{F32}|{self._dtype}")


class _CastLayers(_Casts):
    """Mode matmult: what is multiplied is cast, and the f32 sums are kept."""

    def run(self) -> list[str]:
        """Cast; what was cast, in program order."""
        for op in list(self._block.walk()):
            if isinstance(op, LAYERS) and _is_f32(op.operands[0]) and core_support(op, self._target) is None:
                block = op.parent_block()
                assert block is not None
                self._block = block
                multiplied = [self._cast(value, self._dtype, op) for value in op.operands[:2]]
                op.operands = [*multiplied, *op.operands[2:]]
                self._note(op)
        return self._casts


class _CastAll(_Casts):
    """Mode all: results become the narrow type in place; f32 comes in and goes out through casts."""

    def run(self) -> list[str]:
        """Cast; what was cast, in program order."""
        for op in list(self._block.ops):
            if isinstance(op, FusedOp):
                raise NeuronError("NX-PASS-002", "graph-auto-cast: mode all must run before graph-fuse")
            if self._computes(op):
                op.operands = [self._narrow(value, op) for value in op.operands]
                self._retype_result(op)
            else:
                op.operands = [self._wide(value, op) for value in op.operands]
        return self._casts

    def __init__(self, block: Block, target: Target, dtype: DType) -> None:
        super().__init__(block, target, dtype)
        self._retyped: set[SSAValue] = set()

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

    def _retype_result(self, op: Operation) -> None:
        result = op.results[0]
        if _is_f32(result):
            type_ = tensor_type(self._dtype, shape_of(result))
            self._retyped.add(Rewriter.replace_value_with_new_type(result, type_))
            self._note(op)


def _is_f32(value: SSAValue) -> bool:
    return dtype_of_or_none(value.type) is F32
