"""What tests of kernel templates share: lower a small core function, check what came out, run it on numbers.

Every lowering is checked on the way: the tile function verifies, each op is an instruction that the target can execute
on some engine, and the results equal those of the graph interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp, NameLoc, NoneAttr, StringAttr, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.rewriter import Rewriter

from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from lowering.tile_to_nisa.convert import ConvertTileToNisaPass
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import DType
from neuron_dialects.graph import ConstantOp, FusedOp, LayoutAttr, YieldOp
from neuron_dialects.isa import INSTRUCTIONS, Instruction, Operand, verify_instruction
from neuron_dialects.neuron import Executor, ExecutorAttr, TargetAttr, location_name, target_of
from neuron_dialects.target import Target
from neuron_dialects.tile import TileOp
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver, run_graph
from runtime.program_interpreter import run_function
from tests.graph_level import build, make_context, no_weights

Array = npt.NDArray[Any]
Make = Callable[..., Any]
NODE = "the node"


def resident(value: Operation | SSAValue, partition: int, halo: Sequence[tuple[int, int]] = ()) -> SSAValue:
    """The value, marked to stay in SBUF with this dimension on the partitions."""
    value = SSAValue.get(value)
    assert isinstance(value.type, TensorType)
    layout = LayoutAttr.resident(partition, tuple(halo))
    return Rewriter.replace_value_with_new_type(
        value, TensorType(value.type.element_type, value.type.get_shape(), layout)
    )


def core_module(make: Make, inputs: Sequence[Array], target: str = "trn1") -> tuple[ModuleOp, FuncOp]:
    """A module with one core function that returns what `make` builds on arguments like `inputs`."""
    function = build(make, inputs)
    function.attributes["neuron.executor"] = ExecutorAttr(Executor.CORE)
    for op in function.body.block.ops:
        op.location = NameLoc(StringAttr(NODE), NoneAttr())
    module = ModuleOp([function], {"neuron.target": TargetAttr(target)})
    return module, function


def lowered(module: ModuleOp) -> FuncOp:
    """The tile function that the module's core function became."""
    ConvertGraphToTilePass().apply(make_context(), module)
    module.verify()
    (function,) = [op for op in module.ops if isinstance(op, FuncOp)]
    return function


def tile_ops(function: FuncOp) -> list[TileOp]:
    """Compute and transfer ops, in order."""
    return [op for op in function.walk() if isinstance(op, TileOp)]


def instruction_of(op: TileOp, target: Target) -> Instruction:
    """The op as an instruction on the first engine of the target that executes it."""
    definition = INSTRUCTIONS[op.INSTRUCTION]
    engines = [engine for engine in definition.engines if engine == "dma" or engine in target.compute_engines]
    assert engines, f"{op.name}: no engine of {target.name} executes it"
    operands = {
        role: Operand(space_of(buffer), dtype_name_of(buffer), pattern) for role, (buffer, pattern) in op.views.items()
    }
    return Instruction(op.INSTRUCTION, engines[0], operands, dict(op.fields.data))


def check_instructions(function: FuncOp, target: Target) -> None:
    """Every op is within the limits of the machine and says which node it comes from."""
    for op in tile_ops(function):
        assert verify_instruction(instruction_of(op, target), target) == [], str(op)
        assert location_name(op.location) == NODE, str(op)


def run_core(make: Make, *inputs: Array, target: str = "trn1") -> list[Array]:
    """Results of the lowered function, with every check; see the module's docstring."""
    module, _ = core_module(make, inputs, target)
    function = lowered(module)
    check_instructions(function, target_of(module))
    # A core has no tensors of rank 0: they have one element.
    arguments = [np.atleast_1d(array) for array in inputs]
    return run_function(function, arguments, WeightResolver(module, WeightStore()))


def run_on_engines(make: Make, *inputs: Array, target: str = "trn1") -> list[Array]:
    """Results of the instructions that the lowered function becomes, each with the arithmetic of its engine."""
    module, _ = core_module(make, inputs, target)
    lowered(module)
    ConvertTileToNisaPass().apply(make_context(), module)
    (function,) = [op for op in module.ops if isinstance(op, FuncOp)]
    arguments = [np.atleast_1d(array) for array in inputs]
    return run_function(function, arguments, WeightResolver(module, WeightStore()))


def expected(make: Make, *inputs: Array) -> list[Array]:
    """Results of the graph function."""
    return run_graph(build(make, inputs), list(inputs), no_weights)


def check(
    make: Make, *inputs: Array, target: str = "trn1", tolerance: float = 2e-6, engines: bool = False
) -> list[Array]:
    """Lower, run, and compare with the graph interpreter; returns the results.

    With `engines`, the instructions that the function becomes are run and compared as well.
    """
    results = run_core(make, *inputs, target=target)
    levels = [results, run_on_engines(make, *inputs, target=target)] if engines else [results]
    for level in levels:
        for have, want in zip(level, expected(make, *inputs), strict=True):
            assert_near(have.reshape(want.shape), want, tolerance)
    return results


def assert_near(have: Array, want: Array, tolerance: float) -> None:
    """Same type; integers and truth values equal; floats within `tolerance` of themselves or of their root mean square.

    16-bit floats may differ by two units in the last place: they are rounded from f32 in both cases.
    """
    assert have.dtype == want.dtype
    if have.dtype.kind in "biu":
        np.testing.assert_array_equal(have, want)
        return
    step = {2: 2 * 2.0**-8 if "bfloat" in str(have.dtype) else 2 * 2.0**-11}.get(have.dtype.itemsize, 0.0)
    bound = max(tolerance, step)
    exact = want.astype(np.float64)
    finite = exact[np.isfinite(exact)]
    scale = float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0
    np.testing.assert_allclose(have.astype(np.float64), exact, rtol=bound, atol=bound * max(scale, 1.0))


def random(shape: Sequence[int], dtype: Any = np.float32, seed: int = 0) -> Array:
    """Normal floats, or integers over the whole range of the type, among them its limits and 0."""
    rng = np.random.default_rng(seed)
    if dtype is np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if np.dtype(dtype).kind not in "iu":
        return np.asarray(3 * rng.standard_normal(shape)).astype(dtype)
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    values.reshape(-1)[:3] = [0, limits.min, limits.max]
    return values


def number(value: float, dtype: DType, shape: Sequence[int] = ()) -> ConstantOp:
    """A constant that holds one number."""
    return ConstantOp(value, dtype, shape)


def fused(make: Callable[..., Any]) -> Make:
    """What `make` builds, as one group."""

    def outer(*arguments: SSAValue | Operation) -> Sequence[SSAValue]:
        given = [SSAValue.get(argument) for argument in arguments]
        block = Block(arg_types=[argument.type for argument in given])
        made = make(*block.args)
        values = [SSAValue.get(value) for value in (made if isinstance(made, tuple) else (made,))]
        added: set[Operation] = set()

        def add(value: SSAValue) -> None:
            owner = value.owner
            if isinstance(owner, Operation) and owner not in added:
                added.add(owner)
                for operand in owner.operands:
                    add(operand)
                owner.location = NameLoc(StringAttr(NODE), NoneAttr())
                block.add_op(owner)

        for value in values:
            add(value)
        block.add_op(YieldOp(*values))
        return FusedOp(given, [value.type for value in values], Region(block)).results

    return outer


def compute_ops(make: Make, *inputs: Array) -> list[str]:
    """Names of the compute ops that a group becomes."""
    module, _ = core_module(make, inputs)
    return [op.name.split(".")[1] for op in tile_ops(lowered(module)) if op.name not in ("tile.load", "tile.store")]
