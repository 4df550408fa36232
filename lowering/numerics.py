"""Whether a pass keeps what a program computes: random values, budgets, and the comparison.

`ProgramProbe` is made for a module before any pass runs. It draws inputs, and weights where the module's file of
weights is not there, and runs the program in the interpreter of whatever level it is at, again and again as passes
lower it. The budget of a step says how far results may move: rounding to narrower types and summing in another order
are no faults, and how much they matter depends on the narrowest type in the program.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DYNAMIC_INDEX, IntegerAttr, MemRefType, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation, SSAValue

from lowering.execute import input_names, output_names, run_named_function
from neuron_dialects.dtypes import DType, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import BatchNormOp, WeightOp
from neuron_dialects.neuron import layer_weights, location_name, weights_path
from neuron_dialects.nisa import ParamOp as NisaParamOp
from neuron_dialects.tile import ParamOp as TileParamOp
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import Observer
from runtime.program_interpreter import INPUT_COUNT
from runtime.reference import errors, rounded

Array = np.ndarray[Any, np.dtype[Any]]

ROUNDING = {"f8e3m4": 2**-5, "f8e4m3": 2**-4, "f8e5m2": 2**-3, "bf16": 2**-8, "f16": 2**-11, "tf32": 2**-11}
"""Element type -> largest relative error of rounding to it."""
FLOORS = 3.0
"""How many times the error that rounding inputs and weights alone causes counts as none."""
ROUNDINGS = 8
"""How many such errors results may move by: those of a chain of operators add up."""
FLOAT_BUDGET = 1e-4
"""rel_l2_error that summing in another order may cause in a program of wider types."""
PROGRAM_BUDGET = 1e-5
"""The same between two programs of tiles or instructions: they round alike, and sum in nearly the same order."""
FLIPPED_SHARE = 1 / 2
"""Share of a rounding that such sums come to where they are rounded to a narrow type: few land on its other side."""


@dataclass(frozen=True)
class Difference:
    """The output that moved most between two runs. `before` and `after`: the values at `index`, the worst element."""

    output: str
    rel_l2_error: float
    max_abs_error: float
    index: tuple[int, ...]
    before: float
    after: float


def budget(before: ModuleOp, after: ModuleOp) -> float:
    """rel_l2_error that a pass may cause which made `after` of `before`."""
    types = {dtype.name for module in (before, after) for dtype in _element_types(module)}
    rounding = max([0.0, *(ROUNDING[name] for name in types if name in ROUNDING)])
    if is_program(before) and is_program(after):
        return max(PROGRAM_BUDGET, FLIPPED_SHARE * rounding)
    return max(FLOAT_BUDGET, ROUNDINGS * rounding)


def is_program(module: ModuleOp) -> bool:
    """Whether functions of the module work on buffers: the tile level and those below."""
    return any(
        isinstance(argument.type, MemRefType)
        for op in module.ops
        if isinstance(op, FuncOp)
        for block in op.body.blocks
        for argument in block.args
    )


def compare_results(names: Sequence[str], before: Sequence[Array], after: Sequence[Array]) -> Difference | None:
    """The output with the largest rel_l2_error; None when there are no outputs.

    NaN in both runs is the same; so are equal infinities. Other numbers of outputs or elements: infinitely far apart.
    """
    if len(before) != len(after):
        return Difference(f"{len(before)} outputs, then {len(after)}", np.inf, np.inf, (), np.nan, np.nan)
    differences = [_difference(*item) for item in zip(names, before, after, strict=False)]
    return max(differences, key=lambda difference: difference.rel_l2_error, default=None)


def _difference(name: str, before: Array, after: Array) -> Difference:
    if before.size != after.size:
        return Difference(f"{name} ({before.shape}, then {after.shape})", np.inf, np.inf, (), np.nan, np.nan)
    after = after.reshape(before.shape)
    if "O" in (before.dtype.kind, after.dtype.kind) or "U" in (before.dtype.kind, after.dtype.kind):
        found = errors(after, before)
        return Difference(name, found["rel_l2_error"], found["max_abs_error"], (), np.nan, np.nan)
    old, new = before.astype(np.float64), after.astype(np.float64)
    both = np.isnan(old) & np.isnan(new)
    old, new = np.where(both, 0.0, old), np.where(both, 0.0, new)
    found = errors(new, old)
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.where(old == new, 0.0, np.abs(old - new)), nan=np.inf)
    if not distance.size:
        return Difference(name, 0.0, 0.0, (), np.nan, np.nan)
    worst = tuple(int(i) for i in np.unravel_index(int(distance.argmax()), distance.shape))
    return Difference(name, found["rel_l2_error"], found["max_abs_error"], worst, float(old[worst]), float(new[worst]))


class ProgramProbe:
    """Runs one program on the same random values at every level.

    Args:
        module: the program before the first pass. @main is run, or each function with a body where there is no @main.
        seed: of the random values.

    NeuronError NX-IR-002 when the module has no function that could be run.
    """

    def __init__(self, module: ModuleOp, seed: int = 0) -> None:
        functions = list(_functions(module).values())
        main = [function for function in functions if function.sym_name.data == "main"]
        self._entries = [function.sym_name.data for function in main or functions]
        if not self._entries:
            raise NeuronError("NX-IR-002", "the module has no function that could be run")
        path = weights_path(module)
        stored = path is not None and path.is_file()
        self._store = WeightStore.load_safetensors(path) if path and stored else random_weights(module, seed)
        self._inputs = {f.sym_name.data: random_arguments(f, seed) for f in main or functions}
        self.names: list[str] = []
        """The outputs, in the order of `run`'s results."""
        for function in main or functions:
            prefix = "" if function.sym_name.data == "main" else f"@{function.sym_name.data} "
            # On buffers, the outputs are the arguments behind the inputs.
            behind = len(function.body.block.args) - len(self._inputs[function.sym_name.data])
            names = output_names(function) or [f"output{i}" for i in range(behind)]
            self.names += [f"{prefix}{name}" for name in names]
        self.results = self.run(module)
        """What the program computes at first."""
        if not stored and any(map(_has_nan, self.results)):
            # The root of a drawn number, most likely: from NaN no pass can take anything away.
            self._store = random_weights(module, seed, positive=True)
            self.results = self.run(module)

    def run(self, module: ModuleOp) -> list[Array]:
        """The results of the program, on a copy of it: the machine's form is made where it is missing."""
        return [array for results in self._run(module.clone()) for array in results]

    def cast_floor(self, before: ModuleOp, after: ModuleOp) -> float:
        """The rel_l2_error that rounding inputs and weights to the narrowest type of `after` causes in `before`.

        0 where `before` has a type as narrow: no pass that casts no further can be excused with it.
        """
        old, new = ({d.name for d in _element_types(module)} & set(ROUNDING) for module in (before, after))
        narrowest = max(new, key=lambda name: ROUNDING[name], default=None)
        if narrowest is None or any(ROUNDING[name] >= ROUNDING[narrowest] for name in old):
            return 0.0
        expected = self.run(before)
        store, inputs = self._store, self._inputs
        self._store = WeightStore()
        for name in store.names():
            self._store.add(name, _rounded(store.get(name), narrowest), store.dtype(name))
        self._inputs = {entry: [_rounded(a, narrowest) for a in arrays] for entry, arrays in inputs.items()}
        try:
            difference = compare_results(self.names, expected, self.run(before))
        finally:
            self._store, self._inputs = store, inputs
        return 0.0 if difference is None else difference.rel_l2_error

    def node_values(self, module: ModuleOp) -> dict[str, Array]:
        """Framework node -> the last value that an operator of it computes at the graph level."""
        values: dict[str, Array] = {}

        def observe(op: Operation, value: Array) -> None:
            if (node := location_name(op.location)) is not None:
                values.pop(node, None)
                values[node] = value

        for _ in self._run(module.clone(), observe):
            pass
        return values

    def _run(self, module: ModuleOp, observe: Observer | None = None) -> Iterator[list[Array]]:
        functions = _functions(module)
        for name in self._entries:
            if name not in functions:
                raise NeuronError("NX-IR-002", f"the pass removed function @{name}")
            yield run_named_function(functions[name], self._store, self._inputs[name], observe=observe)


def first_changed_node(before: Mapping[str, Array], after: Mapping[str, Array], limit: float) -> str | None:
    """The first framework node that has values of one shape in both runs which differ by more than `limit`."""
    for node, value in after.items():
        expected = before.get(node)
        if expected is None or expected.shape != value.shape or "O" in (expected.dtype.kind, value.dtype.kind):
            continue
        if _difference(node, expected, value).rel_l2_error > limit:
            return node
    return None


def random_weights(module: ModuleOp, seed: int = 0, *, positive: bool = False) -> WeightStore:
    """A store with values for every weight that a module names; a name always gets the same ones.

    Variances are not negative; with `positive`, no weight is.
    """
    store = WeightStore()
    derived = {op.properties["sym_name"] for op in module.ops if "sym_name" in op.properties}

    def add(name: str, spec: tuple[DType, Sequence[int]], *, nowhere_negative: bool) -> None:
        values = random_array(*spec, np.random.default_rng([seed, zlib.crc32(name.encode())]))
        store.add(name, np.abs(values) if nowhere_negative else values, spec[0])

    for op in module.walk():
        if isinstance(op, WeightOp) and op.symbol.root_reference not in derived:
            name, value = op.weight_name, op.result
        elif isinstance(op, TileParamOp | NisaParamOp) and op.symbol not in derived:
            name, value = op.symbol.data, op.results[0]
        else:
            continue
        spec = _spec(value.type)
        if name in store or spec is None:
            continue
        add(name, spec, nowhere_negative=positive or _is_variance(value))
    # What a repeated function names stands for others in later iterations.
    rows = [row for op in module.ops if isinstance(op, FuncOp) for row in layer_weights(op).values()]
    for first, *others in (row for row in rows if row[0] in store):
        for name in (name for name in others if name not in store and StringAttr(name) not in derived):
            add(name, (store.dtype(first), store.shape(first)), nowhere_negative=bool((store.get(first) >= 0).all()))
    return store


def random_arguments(function: FuncOp, seed: int = 0) -> list[Array]:
    """An array for each argument of a function, or for each that is an input where it works on buffers.

    NeuronError NX-RUN-005 for an argument that is no tensor of numbers.
    """
    rng = np.random.default_rng(seed)
    count = function.attributes.get(INPUT_COUNT)
    arguments = list(function.body.block.args)
    if isinstance(count, IntegerAttr):
        arguments = arguments[: count.value.data]
    arrays: list[Array] = []
    for name, argument in zip([*input_names(function), *[""] * len(arguments)], arguments, strict=False):
        spec = _spec(argument.type)
        if spec is None:
            raise NeuronError("NX-RUN-005", f"no random values can be drawn for input '{name}' of type {argument.type}")
        arrays.append(random_array(*spec, rng))
    return arrays


def random_array(dtype: DType, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Normal floats; integers 0 and 1, which are valid indices, masks and token ids."""
    values = rng.standard_normal(shape) if dtype.is_float else rng.integers(0, 2, shape)
    return np.asarray(values).astype(dtype.numpy)


def _functions(module: ModuleOp) -> dict[str, FuncOp]:
    """The functions that have a body, by name."""
    return {op.sym_name.data: op for op in module.ops if isinstance(op, FuncOp) and op.body.blocks}


def _rounded(array: Array, dtype: str) -> Array:
    return rounded(array, dtype) if array.dtype == np.float32 else array


def _has_nan(array: Array) -> bool:
    return array.dtype.kind not in "OU" and bool(np.isnan(array.astype(np.float64)).any())


def _spec(type_: Attribute) -> tuple[DType, tuple[int, ...]] | None:
    if not isinstance(type_, TensorType | MemRefType):
        return None
    dtype, shape = dtype_of_or_none(type_.element_type), type_.get_shape()
    return None if dtype is None or DYNAMIC_INDEX in shape else (dtype, tuple(shape))


def _is_variance(value: SSAValue) -> bool:
    return any(isinstance(use.operation, BatchNormOp) and use.operation.variance is value for use in value.uses)


def _element_types(module: ModuleOp) -> set[DType]:
    types = {type_ for op in module.walk() for type_ in (*op.operand_types, *op.result_types)}
    specs = [_spec(type_) for type_ in types]
    return {spec[0] for spec in specs if spec is not None}
