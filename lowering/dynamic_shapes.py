"""Which dimensions of a model may have other sizes than it is compiled for, and where the outputs have them.

Given a model and the shapes that it was bound to, the model is imported again at other sizes of each symbolic
dimension, which is quick because nothing is compiled. What changes between two imports says where a dimension is in the
outputs, and `passes.graph.axis_flow` whether its positions stay apart. Left behind is a `Finding` for each dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import isqrt
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, StringAttr, TensorType
from xdsl.dialects.func import FuncOp

from lowering.onnx_to_graph.importer import INPUT_NAMES, OUTPUT_NAMES, import_onnx
from lowering.onnx_to_graph.result import ImportInfo, ImportResult, SymbolUse
from neuron_dialects.errors import NeuronError
from passes.graph.axis_flow import AtSize, Mixed, State, follow_axis
from runtime.neff import DynamicDimension

Shapes = Mapping[str, tuple[int, ...]]
Axes = tuple[tuple[str, int], ...]
"""(tensor, axis) pairs."""

_SMALLEST_PROBE = 5
_LARGEST_PROBE = 61
"""Probes are small, so that masks and positions that are folded at import stay small too."""


@dataclass(frozen=True)
class Finding:
    """What is known of a symbolic dimension.

    `outputs`: where the outputs have it; `unrelated`: outputs whose shape depends on it in another way; `mixed`: the
    first operation that mixes its positions or treats them differently, None when any part of it can run alone;
    `leaks`: the first operation through which padding behind the end could change results, None when it cannot.
    """

    name: str
    use: SymbolUse
    sizes: tuple[int, ...]
    """Its size in each bucket."""
    outputs: Axes
    unrelated: tuple[str, ...]
    mixed: Mixed | None
    leaks: Mixed | None

    @property
    def independent(self) -> bool:
        return self.mixed is None

    def dimension(self, independent: bool) -> DynamicDimension:
        """As the NEFF says it."""
        return DynamicDimension(self.name, independent, self.use.axes, self.outputs)


def find_dimensions(source: Any, buckets: Sequence[ImportInfo], *, only_batch: bool) -> list[Finding]:
    """A finding for each symbolic dimension of the inputs; with `only_batch` for those that name a batch.

    Args:
        source: as for `import_onnx`.
        buckets: the import reports of the model at each set of shapes.
        only_batch: whether other dimensions are left out.
    """
    first = buckets[0]
    uses = {name: use for name, use in first.symbols.items() if use.is_batch or not only_batch}
    largest = {name: max(_size(use, info.input_shapes) for info in buckets) for name, use in first.symbols.items()}
    sizes = _probe_sizes(first, largest)
    findings: list[Finding] = []
    base: ImportResult | None = None
    for name, use in uses.items():
        compiled = tuple(_size(use, info.input_shapes) for info in buckets)
        try:
            if base is None:
                base = import_onnx(source, input_shapes=_shapes(first, {n: pair[0] for n, pair in sizes.items()}))
            pair = sizes[name]
            changed = {n: pair[0] for n, pair in sizes.items()} | {name: pair[1]}
            other = import_onnx(source, input_shapes=_shapes(first, changed))
        except NeuronError as error:
            reason = f"the model cannot be imported at other sizes: {error.message}"
            unknown = Mixed(error.node or "", reason)
            findings.append(Finding(name, use, compiled, (), (), unknown, unknown))
            continue
        findings.append(_finding(name, use, compiled, (base, other), pair))
    return findings


def _size(use: SymbolUse, shapes: Shapes) -> int:
    name, axis = use.axes[0]
    return shapes[name][axis]


def _shapes(info: ImportInfo, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs with symbolic dimensions of these sizes."""
    shapes = {name: list(shape) for name, shape in info.input_shapes.items()}
    for symbol, use in info.symbols.items():
        for name, axis in use.axes:
            shapes[name][axis] = sizes[symbol]
    return {name: tuple(shape) for name, shape in shapes.items()}


def _probe_sizes(info: ImportInfo, largest: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Two primes for every symbol, all different.

    A batch gets small ones. Another dimension gets ones below its largest size where there are, because a model may
    have a table of positions of this size.
    """
    taken: set[int] = set()
    sizes: dict[str, tuple[int, int]] = {}
    for name, use in info.symbols.items():
        limit = _LARGEST_PROBE if use.is_batch else min(_LARGEST_PROBE, largest[name])
        below = [size for size in range(_SMALLEST_PROBE, limit + 1) if _is_prime(size) and size not in taken]
        chosen = below[:2] if use.is_batch else below[-2:]
        above = (size for size in count(limit + 1) if size >= _SMALLEST_PROBE and _is_prime(size) and size not in taken)
        chosen += [next(above) for _ in range(2 - len(chosen))]
        taken.update(chosen)
        sizes[name] = (chosen[0], chosen[1])
    return sizes


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def _finding(
    name: str, use: SymbolUse, compiled: tuple[int, ...], imports: Sequence[ImportResult], sizes: tuple[int, int]
) -> Finding:
    """What two imports that differ in the size of one dimension say about it."""
    base, other = imports
    mains = (_main(base), _main(other))
    inputs, outputs = _strings(mains[0], INPUT_NAMES), _strings(mains[0], OUTPUT_NAMES)
    at = [AtSize(m, imported.weights, s) for m, imported, s in zip(mains, imports, sizes, strict=True)]
    axes = [(inputs.index(tensor), axis) for tensor, axis in use.axes]
    mixed = _first_mixed(follow_axis(at[0], at[1], axes))
    if base.info.shape_branches:
        mixed = Mixed(base.info.shape_branches[0], "which branch it takes may depend on the shapes")
    found: list[tuple[str, int]] = []
    unrelated: list[str] = []
    results = zip(outputs, mains[0].function_type.outputs.data, mains[1].function_type.outputs.data, strict=True)
    for output, ours, theirs in results:
        along = _axes(ours, theirs, sizes)
        if along is None:
            unrelated.append(output)
        else:
            found += [(output, axis) for axis in along]
    if unrelated or len({output for output, _ in found}) != len(found):
        mixed = mixed or Mixed("", "an output has it in another way than as one of its dimensions")
    leaks = None
    if mixed is not None:
        leaks = mixed if base.info.shape_branches else _first_mixed(follow_axis(at[0], at[1], axes, positions=True))
    return Finding(name, use, compiled, tuple(found), tuple(unrelated), mixed, leaks)


def _first_mixed(states: Sequence[State]) -> Mixed | None:
    return next((state for state in states if isinstance(state, Mixed)), None)


def _axes(ours: Any, theirs: Any, sizes: tuple[int, int]) -> list[int] | None:
    """Axes of an output that have the dimension's size at both sizes; None if it depends on the size otherwise."""
    if not isinstance(ours, TensorType) or not isinstance(theirs, TensorType):
        return [] if ours == theirs else None
    pairs = list(zip(ours.get_shape(), theirs.get_shape(), strict=False))
    if len(ours.get_shape()) != len(theirs.get_shape()):
        return None
    changed = [axis for axis, pair in enumerate(pairs) if pair[0] != pair[1]]
    return changed if all(pairs[axis] == sizes for axis in changed) else None


def _main(imported: ImportResult) -> FuncOp:
    return next(op for op in imported.module.ops if isinstance(op, FuncOp))


def _strings(function: FuncOp, attribute: str) -> list[str]:
    names = function.attributes[attribute]
    assert isinstance(names, ArrayAttr), "the import names inputs and outputs"
    return [name.data for name in names if isinstance(name, StringAttr)]


def chosen_dimensions(
    findings: Sequence[Finding], mode: str, has_buckets: bool
) -> tuple[list[DynamicDimension], list[dict[str, Any]]]:
    """The dimensions that the NEFF leaves open, and the compile report's row for each finding.

    Args:
        findings: what is known.
        mode: `auto` opens a dimension whose positions stay apart, `require` refuses a batch that is not one
            (NX-SHAPE-001), `assume` takes a batch as one, `off` opens none for cutting.
        has_buckets: whether the user gave buckets: then inputs are padded along the others.
    """
    dimensions: list[DynamicDimension] = []
    rows: list[dict[str, Any]] = []
    for finding in findings:
        independent = finding.independent and mode != "off"
        if finding.use.is_batch and not finding.independent and mode in ("require", "assume"):
            _refuse_batch(finding, mode)
            independent = True
        if independent or has_buckets:
            dimensions.append(finding.dimension(independent))
        rows.append(_row(finding, "any" if independent else "padded" if has_buckets else "fixed"))
    return dimensions, rows


def _refuse_batch(finding: Finding, mode: str) -> None:
    """NX-SHAPE-001 where a batch must be cut and cannot, or is assumed to be and its outputs are not."""
    assert finding.mixed is not None, "only such batches are refused"
    lost = finding.unrelated or (() if finding.outputs else ("the outputs",))
    if mode == "require" or lost:
        raise NeuronError(
            "NX-SHAPE-001",
            f"rows of '{finding.name}' are not known to be independent: {finding.mixed.reason}",
            node=finding.mixed.node or None,
            help="compile for the batch that you run, or with --dynamic-batch-size assume if you know that they are"
            if not lost
            else "compile for the batch that you run",
        )


def _row(finding: Finding, sizes: str) -> dict[str, Any]:
    """`sizes`: any, padded (up to the largest bucket) or fixed; `why` positions are not independent, at `node`."""
    return {
        "name": finding.name,
        "compiled": sorted(set(finding.sizes)),
        "sizes": sizes,
        "independent": finding.independent,
        "why": finding.mixed.reason if finding.mixed else "",
        "node": finding.mixed.node if finding.mixed else "",
        "padding_leaks": finding.leaks.reason if finding.leaks else "",
        "padding_leaks_at": finding.leaks.node if finding.leaks else "",
        "inputs": [f"{tensor}[{axis}]" for tensor, axis in finding.use.axes],
        "outputs": [f"{tensor}[{axis}]" for tensor, axis in finding.outputs],
        "padded_outputs": list(finding.unrelated),
    }
