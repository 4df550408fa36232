"""Plug-ins: passes, dialects, operators, instructions, targets and kernel templates from outside the toolkit.

A plug-in is a Python module with a `Plugin` called `PLUGIN`. It is named on a command line (`--load-pass-plugin
FILE.py`) or installed as a package with an entry point in the group `neuron_toolkit.plugins`. Loading adds its rows to
the toolkit's tables, for the whole process and once; a row that clashes with one that is there is an error, and then
nothing of the plug-in is added. A plug-in is code and runs as such: load only what you trust.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from xdsl.ir import Dialect, Operation
from xdsl.passes import ModulePass

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import InstructionDef
from neuron_dialects.target import Target

ENTRY_POINTS = "neuron_toolkit.plugins"
"""Group of the entry points of installed plug-ins; each leads to a `Plugin`."""


@dataclass(frozen=True)
class GraphOperator:
    """A graph operator of a plug-in's dialect, and what the toolkit's levels need to know of it.

    Args:
        operation: its class, a `neuron_dialects.graph.ComputeOp`.
        meaning: gives its results as arrays, from the operation and the arrays of its operands.
        kernel: lowers it to tile ops, given a `lowering.graph_to_tile.kernel.Kernel` and the operation; without one it
            runs on the host.
        host: writes it into the ONNX model of a host segment, given the writer, the operation and the names of its
            operands; without one it must run on the core.
        support: why a core of a target cannot run an operation of this class, None where it can.
        axes: what becomes of a dimension of its operands, see `passes.graph.axis_rules`; without a rule rows of a batch
            are taken as dependent on each other.
    """

    operation: type[Operation]
    meaning: Callable[..., Any]
    kernel: Callable[[Any, Any], None] | None = None
    host: Callable[..., Any] | None = None
    support: Callable[[Any, Target], str | None] | None = None
    axes: Callable[..., Any] | None = None


@dataclass(frozen=True)
class NewInstruction:
    """An instruction: its definition, its meaning (`runtime.semantics`), and the tile op that it is selected for.

    The opcode of the definition is in `neuron_dialects.isa.definitions.PLUGIN_OPCODES`; give it another one whenever
    its operands or fields change, so that files of before are refused instead of misread.
    """

    definition: InstructionDef
    meaning: Callable[[Any], Any]
    tile_op: str | None = None


@dataclass(frozen=True)
class Plugin:
    """What a plug-in adds.

    Args:
        passes: pass classes; they are known by their `name`.
        pipeline: (spec, after): passes that are put into the default pipeline, each behind the first pass of that name.
        dialects: dialects, known by their names.
        operators: graph operators.
        kernels: kernel templates by the class of their graph operator; they come before the toolkit's own.
        converters: (domain, type) of an ONNX operator -> a function of a `lowering.onnx_to_graph.node.Node` that emits
            graph operators and returns the outputs.
        instructions: instructions with their meanings.
        targets: target files (TOML); a target is called as its file is.
    """

    passes: Sequence[type[ModulePass]] = ()
    pipeline: Sequence[tuple[str, str]] = ()
    dialects: Sequence[Dialect] = ()
    operators: Sequence[GraphOperator] = ()
    kernels: Mapping[type[Operation], Callable[[Any, Any], None]] = field(default_factory=dict)
    converters: Mapping[tuple[str, str], Callable[[Any], Any]] = field(default_factory=dict)
    instructions: Sequence[NewInstruction] = ()
    targets: Sequence[Path] = ()


@dataclass(frozen=True)
class Loaded:
    """A plug-in that this process has loaded: its name, and the SHA-256 of its file (of its version if installed)."""

    name: str
    digest: str


_T = TypeVar("_T")

_loaded: dict[str, Loaded] = {}


def loaded_plugins() -> tuple[Loaded, ...]:
    """The plug-ins of this process, by name; what a compiled file depends on besides model, options and version."""
    return tuple(sorted(_loaded.values(), key=lambda loaded: (loaded.name, loaded.digest)))


def load_plugin(path: str | Path) -> None:
    """Load the plug-in of a Python file; a file that is loaded already is left alone.

    The file's folder is on the path while it is executed, so that files of one plug-in can import each other.

    Raises:
        NeuronError: NX-PLUGIN-001 when the file cannot be executed or has no `PLUGIN`, NX-PLUGIN-002 when a name is
            taken.
    """
    file = Path(path).resolve()
    if str(file) in _loaded:
        return
    if not file.is_file():
        raise NeuronError("NX-PLUGIN-001", f"{path}: no such file")
    others = set(sys.modules)
    plugin = getattr(_module(file), "PLUGIN", None)
    try:
        if not isinstance(plugin, Plugin):
            help_ = "PLUGIN = neuron_toolkit.Plugin(passes=[...])"
            raise NeuronError("NX-PLUGIN-001", f"{path} has no PLUGIN", help=help_)
        register(plugin, str(path))
    except NeuronError:
        # Who mends the file can load it again in the same process.
        if file.stem not in others:
            del sys.modules[file.stem]
        raise
    _loaded[str(file)] = Loaded(file.stem, hashlib.sha256(file.read_bytes()).hexdigest())


def load_installed_plugins() -> None:
    """Load the plug-ins of the environment's packages. Raises as `load_plugin`."""
    if not _any_declared():
        return
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in _loaded:
            continue
        try:
            plugin = entry.load()
        except Exception as error:
            raise NeuronError(
                "NX-PLUGIN-001", f"plug-in '{entry.name}' ({entry.value}): {_described(error)}"
            ) from error
        if not isinstance(plugin, Plugin):
            raise NeuronError("NX-PLUGIN-001", f"plug-in '{entry.name}': {entry.value} is no Plugin")
        register(plugin, entry.name)
        version = entry.dist.version if entry.dist is not None else ""
        _loaded[entry.name] = Loaded(entry.name, hashlib.sha256(version.encode()).hexdigest())


def _any_declared() -> bool:
    """Whether an installed package speaks of our entry points; much quicker than to ask importlib.metadata."""
    needle = ENTRY_POINTS.encode()
    for folder in dict.fromkeys(sys.path):
        try:
            with os.scandir(folder or ".") as found:
                packages = [entry.path for entry in found if entry.name.endswith((".dist-info", ".egg-info"))]
        except OSError:
            continue
        for package in packages:
            with suppress(OSError), open(os.path.join(package, "entry_points.txt"), "rb") as file:
                if needle in file.read():
                    return True
    return False


def _module(file: Path) -> ModuleType:
    """The module of a file, called as the file is."""
    known = sys.modules.get(file.stem)
    if known is not None:
        if getattr(known, "__file__", None) and Path(str(known.__file__)).resolve() == file:
            return known
        problem = f"{file}: there is a module '{file.stem}' already"
        raise NeuronError("NX-PLUGIN-002", problem, help="give the file another name")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise NeuronError("NX-PLUGIN-001", f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    folder = str(file.parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[file.stem]
        if isinstance(error, Exception):
            raise NeuronError("NX-PLUGIN-001", f"{file}: {_described(error)}") from error
        raise
    finally:
        sys.path.remove(folder)
    return module


def _described(error: Exception) -> str:
    line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {error}{line}" if not isinstance(error, NeuronError) else error.message


# -- the tables --------------------------------------------------------------------------------------------------------


def register(plugin: Plugin, name: str) -> None:
    """Add what a plug-in has to the toolkit's tables.

    Raises:
        NeuronError: NX-PLUGIN-002 with the plug-in's `name` when a row is there already or does not fit its table.
    """
    problem = next((found for check in _CHECKS if (found := check(plugin)) is not None), None)
    if problem is not None:
        raise NeuronError("NX-PLUGIN-002", f"plug-in {name}: {problem}")
    for path in plugin.targets:
        _add_target(path)
    _add_instructions(plugin.instructions)
    _add_passes(plugin)
    _add_operators(plugin)


def _taken_name(plugin: Plugin) -> str | None:
    """A pass, dialect or converter that there is already."""
    from neuron_dialects.universe import NEURON_UNIVERSE

    for pass_class in plugin.passes:
        if pass_class.name in NEURON_UNIVERSE.all_passes:
            return f"there is a pass '{pass_class.name}' already"
    for dialect in plugin.dialects:
        if dialect.name in NEURON_UNIVERSE.all_dialects:
            return f"there is a dialect '{dialect.name}' already"
    if plugin.converters:
        from lowering.onnx_to_graph.registry import converters, operator_key

        table = converters()
        for domain, op_type in plugin.converters:
            if operator_key(domain, op_type) in table:
                return f"there is a converter for {operator_key(domain, op_type)} already"
    return None


def _unfit_instruction(plugin: Plugin) -> str | None:
    """An instruction or a tile operation that there is already, or an opcode that is not a plug-in's."""
    if not plugin.instructions:
        return None
    from neuron_dialects.isa.definitions import addition_problem
    from neuron_dialects.tile import TILE_OPS

    for new in plugin.instructions:
        if new.tile_op in TILE_OPS:
            return f"there is an operation tile.{new.tile_op} already"
        if problem := addition_problem(new.definition):
            return problem
    return None


def _unknown_place(plugin: Plugin) -> str | None:
    """A pass of the default pipeline that another one is to follow, and that is not in it."""
    if not plugin.pipeline:
        return None
    from lowering.pipeline import pass_name, pass_specs

    known = dict.fromkeys(map(pass_name, pass_specs()))
    for spec, after in plugin.pipeline:
        if after not in known:
            return f"the default pipeline has no pass '{after}'; it has {', '.join(known)}"
        known[pass_name(spec)] = None
    return None


_CHECKS = (_taken_name, _unfit_instruction, _unknown_place)


def _add_instructions(instructions: Sequence[NewInstruction]) -> None:
    if not instructions:
        return
    from neuron_dialects import nisa, tile
    from neuron_dialects.isa import definitions
    from runtime.semantics import SEMANTICS

    for new in instructions:
        definitions.add_instruction(new.definition)
        SEMANTICS[new.definition.name] = new.meaning
        nisa.add_instruction(new.definition.name)
        if new.tile_op is not None:
            tile.add_instruction(new.tile_op, new.definition.name)


def _add_target(path: Path) -> None:
    from neuron_dialects.target import add_target

    add_target(path)


def _add_passes(plugin: Plugin) -> None:
    from neuron_dialects.universe import NEURON_UNIVERSE
    from passes.registry import PASSES

    for pass_class in plugin.passes:
        PASSES[pass_class.name] = f"{pass_class.__module__}:{pass_class.__qualname__}"
        NEURON_UNIVERSE.all_passes[pass_class.name] = _constant(pass_class)
    for dialect in plugin.dialects:
        NEURON_UNIVERSE.all_dialects[dialect.name] = _constant(dialect)
    if plugin.pipeline:
        from lowering.pipeline import add_to_pipeline

        for spec, after in plugin.pipeline:
            add_to_pipeline(spec, after)


def _constant(value: _T) -> Callable[[], _T]:
    return lambda: value


def _add_operators(plugin: Plugin) -> None:
    from lowering.graph_to_tile.registry import kernels

    for operator in plugin.operators:
        _add_operator(operator)
    kernels().update({operator.operation: operator.kernel for operator in plugin.operators if operator.kernel})
    kernels().update(plugin.kernels)
    if plugin.converters:
        from lowering.onnx_to_graph import registry

        for (domain, op_type), convert in plugin.converters.items():
            registry.ADDED[registry.operator_key(domain, op_type)] = registry.Row(convert, since=1)


def _add_operator(operator: GraphOperator) -> None:
    from neuron_dialects.graph.support import CHECKS
    from runtime.graph_interpreter.interpreter import MEANINGS

    MEANINGS[operator.operation] = operator.meaning
    checks = [check for check in (operator.support, _no_kernel if operator.kernel is None else None) if check]
    CHECKS[operator.operation] = tuple(checks)
    if operator.axes is not None:
        from passes.graph.axis_rules import RULES

        RULES[operator.operation] = operator.axes
    if operator.host is not None:
        from lowering.nisa_to_neff.host_model.translate import COMPUTING

        COMPUTING[operator.operation] = operator.host


def _no_kernel(op: Operation, target: Target) -> str:
    return f"{op.name} has no kernel"
