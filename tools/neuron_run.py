"""`neuron-run`: run a NEFF, or MLIR at any level, on the interpreted NeuronCore.

    neuron-run model.neff --random 0 --check model.onnx --mode both
    neuron-run model.neff --input-shape ids=3,100 --check model.onnx
    neuron-run model.neff --inputs x.npz --check model.onnx --per-op
    neuron-run model.mlir --inputs x.npz --outputs y.npz
    neuron-run model.neff --requests 5000 --concurrency 64 --instance inf1.6xlarge --check model.onnx

Without --inputs, values are drawn from the seed of --random (0 by default): floats from a normal distribution, integers
from a small range. `--check` compares with onnxruntime on the original model, or with arrays of an .npz file; with
`--per-op` it also tells how much each tensor of the model lost, worst first. `--requests` serves models on a simulated
instance (`tools.serving`).
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuron_dialects.atomic_file import atomic_file
from neuron_dialects.errors import NeuronError
from tools import serving
from tools.diagnostics import add_common_arguments
from tools.errors import run_main
from tools.plugins import add_plugin_argument, load_plugins
from tools.progress import progress

if TYPE_CHECKING:
    from neuron_dialects.isa.program import CoreProgram
    from runtime.machine import Mode

Array = np.ndarray[Any, np.dtype[Any]]
MAX_NPZ_BYTES = 8 << 30
"""Largest .npz file that is read, packed or unpacked."""

FLOORS = 3.0
"""How many times the error that rounding alone causes counts as none."""

CAST_TYPES = ("bf16", "f16", "tf32")
"""Element types that a floor can be computed for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_run, argv, "neuron-run")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neuron-run", description="Run a compiled model on the interpreted machine.")
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="file", help="a .neff, or .mlir at graph, tile or nisa level"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--inputs", type=Path, metavar="F.npz", help="inputs by name")
    source.add_argument("--random", type=int, metavar="SEED", help="random inputs from this seed (default 0)")
    parser.add_argument(
        "--input-shape", action="append", default=[], metavar="NAME=3,100", help="shape of a random input; repeatable"
    )
    parser.add_argument("--outputs", type=Path, metavar="F.npz", help="write the outputs")
    parser.add_argument(
        "--check", type=Path, metavar="MODEL.onnx|EXPECTED.npz", help="compare with onnxruntime or arrays"
    )
    parser.add_argument(
        "--per-op", action="store_true", help="with --check MODEL.onnx: what each tensor of the model lost, worst first"
    )
    parser.add_argument(
        "--tolerance", type=float, metavar="X", help="with --per-op or --requests: rel_l2_error that counts as kept"
    )
    parser.add_argument(
        "--mode",
        choices=("functional", "timing", "both"),
        default="functional",
        help="compute the outputs (default), the time that the machine takes, or both",
    )
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write a profile for neuron-profile")
    parser.add_argument("--check-races", action="store_true", help="first prove that the queues cannot race")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_plugin_argument(parser)
    add_common_arguments(parser)
    serving.add_arguments(parser)
    return parser


def _run(arguments: Sequence[str]) -> int:
    load_plugins(arguments)
    options = _parser().parse_args(arguments)
    serving.check_options(options)
    if options.requests is not None:
        served = serving.serve(options)
        print(json.dumps(served, indent=2) if options.json else serving.text_report(served))
        return serving.exit_code(served)
    runner = _open(options.files[0])
    if options.check_races:
        refuse_races(runner.programs())
    if options.mode == "timing" and (options.check is not None or options.outputs is not None):
        raise NeuronError("NX-RUN-013", "mode timing computes no outputs", help="--mode both computes and times them")
    if options.per_op and (options.check is None or options.check.suffix == ".npz" or runner.compiled is None):
        raise NeuronError("NX-ARG-002", "--per-op compares a .neff with the model given by --check MODEL.onnx")
    if options.inputs:
        given = read_npz(options.inputs)
    else:
        given = random_inputs(with_shapes(runner.specs, options.input_shape), options.random or 0)
    inputs = runner.bind(given)
    with progress(f"running {options.files[0].name}"):
        outputs, figures = runner.run(inputs, options.mode)
    report: dict[str, Any] = {
        "outputs": [
            {"name": name, "shape": list(value.shape), "dtype": _dtype_name(value)} for name, value in outputs.items()
        ],
        **figures,
    }
    if options.check is not None:
        report["check"] = check(options.check, inputs, outputs, runner.cast_type)
        for row, item in zip(report["outputs"], report["check"], strict=True):
            row.update(item)
    if options.per_op and options.check is not None:
        report["per_op"] = per_op(options.check, inputs, runner, options.tolerance, report["check"])
    if options.outputs is not None:
        write_npz(options.outputs, outputs)
    if options.profile is not None:
        runner.profile(options.profile, figures)
    print(json.dumps(report, indent=2) if options.json else text_report(report))
    return 0


class Runner:
    """A program that can run: input specs (name -> shape, dtype name) and `run`."""

    name: str
    specs: dict[str, tuple[tuple[int, ...], str]]
    cast_type: str
    compiled: Mapping[str, Any] | None = None
    """The compile report that the program carries, if it carries one."""

    def programs(self) -> list[CoreProgram]:
        """The programs of the cores; NeuronError NX-RUN-013 when there are no queues yet."""
        raise AssertionError

    def bind(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs in the element types that the program takes."""
        from runtime.boundary import bind_inputs

        return bind_inputs(self.specs, inputs)

    def run(self, inputs: Mapping[str, Array], mode: Mode) -> tuple[dict[str, Array], dict[str, Any]]:
        """Outputs by name and timing figures."""
        raise AssertionError

    def profile(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """Write the profile of the run that gave `figures`."""
        from neuron_dialects.target import load_target
        from runtime.profile.record import record_programs
        from runtime.profile.store import write_profile

        programs = self.programs()
        if not programs:
            raise NeuronError("NX-RUN-013", "nothing runs on a core: there is no time to profile")
        named = [(f"program{position}", program) for position, program in enumerate(programs)]
        write_profile(record_programs(self.name, named, load_target(programs[0].target)), programs, folder)


class _NeffRunner(Runner):
    def __init__(self, path: Path):
        from runtime.neff import read_neff
        from runtime.session import Session

        neff = read_neff(path)
        self.session = Session(neff)
        self.name = neff.name
        self.specs = {spec.name: (spec.shape, spec.dtype) for spec in neff.inputs}
        self.cast_type = cast_type_of(neff.report)
        self.compiled = neff.report

    def programs(self) -> list[CoreProgram]:
        """The programs of the NEFF's subgraphs."""
        return [image.program for image in self.session.neff.subgraphs]

    def profile(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """Write the profile of the run: its bucket, as often as it ran."""
        from runtime.profile.record import neff_programs, record_neff
        from runtime.profile.store import write_profile

        neff, bucket, pieces = self.session.neff, int(figures.get("bucket", 0)), int(figures.get("pieces", 1))
        write_profile(record_neff(neff, self.session.target, bucket, pieces), neff_programs(neff, bucket), folder)

    def bind(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs in the element types of the model; along its dynamic dimensions of any size."""
        return self.session.bind(inputs)

    def run(self, inputs: Mapping[str, Array], mode: Mode) -> tuple[dict[str, Array], dict[str, Any]]:
        """Run on the machine."""
        result = self.session.run(inputs, mode)
        figures: dict[str, Any] = {} if mode == "functional" else dict(self.session.summary(result))
        if self.session.neff.dimensions or self.session.neff.further_buckets:
            figures |= {"bucket": result.bucket, "pieces": result.pieces}
        return result.outputs, figures


class _ModuleRunner(Runner):
    def __init__(self, path: Path):
        from lowering.compiler import decisions
        from lowering.execute import input_names, main_function, output_names
        from neuron_dialects.graph import spec_of
        from neuron_dialects.neuron import weights_path
        from neuron_dialects.weights import WeightStore
        from tools.module_file import read_module

        self.module, self.name = read_module(path), path.stem
        self.main = main_function(self.module)
        self.inputs, self.output_names = input_names(self.main), output_names(self.main)
        weights = weights_path(self.module)
        self.store = WeightStore.load_safetensors(weights) if weights is not None else WeightStore()
        specs = [spec_of(argument) for argument in self.main.body.block.args]
        self.specs = {n: (tuple(shape), dtype.name) for n, (dtype, shape) in zip(self.inputs, specs, strict=True)}
        self.cast_type = cast_type_of(decisions(self.module))

    def programs(self) -> list[CoreProgram]:
        """The programs of the functions in queues."""
        from lowering.execute import queue_programs

        return queue_programs(self.module)

    def run(self, inputs: Mapping[str, Array], mode: Mode) -> tuple[dict[str, Array], dict[str, Any]]:
        """Interpret at the module's level; queues run on the machine and have a time."""
        from lowering.execute import run_module
        from neuron_dialects.neuron import target_of
        from runtime.session import timing_figures

        run = run_module(self.module, self.store, [inputs[name] for name in self.inputs], mode)
        figures = timing_figures(run.timings, target_of(self.module)) if run.timings else {}
        return ({} if mode == "timing" else dict(zip(self.output_names, run.outputs, strict=True))), figures


def _open(path: Path) -> Runner:
    return _ModuleRunner(path) if path.suffix == ".mlir" else _NeffRunner(path)


def refuse_races(programs: Sequence[CoreProgram]) -> None:
    """NeuronError NX-RUN-007 when the outcome of a program could depend on how its streams happen to run."""
    from neuron_dialects.target import load_target
    from runtime.races import check_pipeline_races, check_races

    if any(program.hand_overs for program in programs):
        races = check_pipeline_races(programs, load_target(programs[0].target))
    else:
        races = [race for program in programs for race in check_races(program, load_target(program.target))]
    if races:
        more = f" (and {len(races) - 1} more like it)" if len(races) > 1 else ""
        raise NeuronError("NX-RUN-007", f"{races[0]}{more}", help="let the later one wait for the earlier one's stream")


def cast_type_of(report: Mapping[str, Any]) -> str:
    """The element type that ops of the model were cast to, from its compile report; empty for none."""
    casts = report.get("casts")
    named = [str(cast).rsplit("|", 1)[-1] for cast in casts] if isinstance(casts, list) else []
    return next((name for name in named if name in CAST_TYPES), "")


def read_npz(path: Path) -> dict[str, Array]:
    """Arrays of an .npz file; nothing is unpickled. NeuronError NX-FILE-002 for a file that is not one."""
    if not path.is_file():
        raise NeuronError("NX-FILE-001", f"{path}: no such file")
    if path.stat().st_size > MAX_NPZ_BYTES:
        raise NeuronError("NX-FILE-002", f"{path}: {path.stat().st_size} bytes exceed {MAX_NPZ_BYTES}")
    try:
        with zipfile.ZipFile(path) as members:
            size = sum(member.file_size for member in members.infolist())
        if size <= MAX_NPZ_BYTES:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NeuronError("NX-FILE-002", f"{path}: not a valid .npz file: {reason}") from error
    raise NeuronError("NX-FILE-002", f"{path}: {size} bytes when unpacked exceed {MAX_NPZ_BYTES}")


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, the same bytes for the same arrays; types that .npz does not know (bf16) as float32."""
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            plain = array.astype(np.float32) if array.dtype.kind == "V" else array
            # A member made by name would have the time of day in it.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(plain).reshape(plain.shape), allow_pickle=False)


def with_shapes(
    specs: Mapping[str, tuple[tuple[int, ...], str]], texts: Sequence[str]
) -> dict[str, tuple[tuple[int, ...], str]]:
    """The inputs with other shapes, each given as `NAME=3,100`. NeuronError NX-RUN-011 for a name that is no input."""
    from tools.neuron_cc import parse_input_shape

    changed = dict(specs)
    for name, shape in map(parse_input_shape, texts):
        if name not in specs:
            raise NeuronError("NX-RUN-011", f"the model has no input '{name}'", help=f"inputs: {', '.join(specs)}")
        changed[name] = shape, specs[name][1]
    return changed


def random_inputs(specs: Mapping[str, tuple[tuple[int, ...], str]], seed: int) -> dict[str, Array]:
    """Seeded inputs: normal floats, integers from 0 to 1 (valid as indices, masks and token ids of any model)."""
    from neuron_dialects.dtypes import dtype_by_name

    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for name, (shape, dtype) in specs.items():
        numpy_dtype = dtype_by_name(dtype).numpy
        if dtype_by_name(dtype).is_float:
            made[name] = rng.standard_normal(shape).astype(numpy_dtype)
        else:
            made[name] = rng.integers(0, 2, shape).astype(numpy_dtype)
    return made


def check(
    reference: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array], cast_type: str
) -> list[dict[str, Any]]:
    """For each output: max_abs_error, rel_l2_error, and with a model and a cast type the floor of that type."""
    from runtime.reference import errors, rounded, rounded_model, run_onnxruntime

    floors: dict[str, Array] = {}
    if reference.suffix == ".npz":
        expected = read_npz(reference)
    else:
        if not reference.is_file():
            raise NeuronError("NX-FILE-001", f"{reference}: no such file")
        expected = run_onnxruntime(reference, inputs)
        if cast_type:
            near = {n: rounded(v, cast_type) if v.dtype == np.float32 else v for n, v in inputs.items()}
            floors = run_onnxruntime(rounded_model(reference, cast_type), near)
    rows: list[dict[str, Any]] = []
    for name, value in outputs.items():
        if name not in expected:
            raise NeuronError(
                "NX-RUN-021", f"the reference has no output '{name}'", help=f"it has {', '.join(expected)}"
            )
        if value.shape != expected[name].shape:
            raise NeuronError(
                "NX-RUN-021",
                f"output '{name}' has shape {list(value.shape)}, the reference {list(expected[name].shape)}",
            )
        row: dict[str, Any] = {"name": name, **errors(value, expected[name])}
        if name in floors:
            row["floor_rel_l2_error"] = errors(floors[name], expected[name])["rel_l2_error"]
        rows.append(row)
    return rows


def per_op(
    reference: Path,
    inputs: Mapping[str, Array],
    runner: Runner,
    tolerance: float | None,
    checked: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The cast report of a compiled model, as plain data with its table under `lines`.

    The model is compiled again up to the graph level, for the target and with the casts that the NEFF's report names.
    Where an output of the machine is beyond the tolerance, the first tensor that is wrong there is looked for.
    """
    from lowering.cast_report import cast_report, report_lines
    from lowering.compiler import CompileOptions

    compiled = runner.compiled or {}
    default = CompileOptions()
    options = CompileOptions(
        target=str(compiled.get("target", default.target)),
        auto_cast=str(compiled.get("auto_cast", default.auto_cast)),
        auto_cast_type=str(compiled.get("auto_cast_type", default.auto_cast_type)),
    )
    found = cast_report(reference, inputs, options, tolerance)
    lines = list(report_lines(found))
    data = found.data()
    # What rounding alone explains is no fault of an operator.
    limits = [max(found.tolerance, FLOORS * row.get("floor_rel_l2_error", 0.0)) for row in checked]
    beyond = [(row, limit) for row, limit in zip(checked, limits, strict=True) if not row["rel_l2_error"] <= limit]
    if beyond:
        from lowering.first_wrong import first_wrong

        row, limit = beyond[0]
        wrong = first_wrong(reference, inputs, options, limit, str(row["name"]))
        if wrong is not None:
            data["first_wrong_on_machine"] = wrong.data()
            lines.append(wrong.line())
    return {**data, "lines": lines}


def _dtype_name(value: Array) -> str:
    from neuron_dialects.dtypes import dtype_of_numpy

    return dtype_of_numpy(value.dtype).name


def text_report(report: Mapping[str, Any]) -> str:
    """A few readable lines."""
    lines: list[str] = []
    for row in report["outputs"]:
        line = f"{row['name']}: {'x'.join(map(str, row['shape']))} {row['dtype']}"
        if "rel_l2_error" in row:
            line += f"  rel_l2_error {row['rel_l2_error']:.3g}  max_abs_error {row['max_abs_error']:.3g}"
        if "floor_rel_l2_error" in row:
            line += f"  (floor {row['floor_rel_l2_error']:.3g})"
        lines.append(line)
    if "bucket" in report:
        lines.append(f"bucket {report['bucket']}, run {report['pieces']} times")
    if "per_op" in report:
        lines += report["per_op"]["lines"]
    if "total_time" in report:
        lines.append(
            f"total_time {report['total_time'] * 1e6:.1f} us (simulated), "
            f"roofline {report['roofline_time'] * 1e6:.1f} us, "
            f"MFU {report['mfu_estimated_percent']:.1%}"
        )
        engines = [k for k in report if k.endswith("_engine_active_time_percent")]
        lines.append("active: " + ", ".join(f"{k.split('_')[0]} {report[k]:.1%}" for k in engines))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
