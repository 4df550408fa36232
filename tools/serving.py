"""`neuron-run --requests`: serve compiled models on a simulated instance, and tell how that goes.

Every distinct input is computed once by the serving runtime, all of them at the same time on different instances, and
checked. The figures come from the simulation of queues, in simulated time, with the times of the core programs as the
machine measures them. What is given: parsed options; what is left: a report as plain JSON data, and its text.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuron_dialects.errors import NeuronError
from neuron_dialects.target import load_target

if TYPE_CHECKING:
    from runtime.neff import Neff
    from runtime.serving import LoadedModel, Runtime
    from runtime.serving.simulation import Service, Workload

Array = np.ndarray[Any, np.dtype[Any]]
Specs = Mapping[str, tuple[tuple[int, ...], str]]
MAX_REQUESTS = 1_000_000
"""Requests of one simulation."""

DEFAULT_CLIENTS, DEFAULT_DISTINCT = 16, 4
LEAST_TOLERANCE = 1e-4
"""rel_l2_error that counts as right in any element type."""

FLOOR_FACTOR = 4.0
"""How much more than rounding the model and its inputs alone loses still counts as right."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of serving."""
    group = parser.add_argument_group("serving", "with --requests, several .neff files may be served side by side")
    group.add_argument("--requests", type=int, metavar="N", help="serve N requests on a simulated instance")
    group.add_argument("--instance", metavar="NAME", help="inf1.6xlarge, ... (default: the smallest that suffices)")
    group.add_argument("--concurrency", type=int, metavar="C", help="clients, each waits for its answer (default 16)")
    group.add_argument("--rate", type=float, metavar="R", help="instead of clients: R requests a second, at random")
    group.add_argument("--distinct", type=int, metavar="K", help="distinct inputs that are computed (default 4)")
    group.add_argument(
        "--cosimulate", type=int, metavar="K", help="stream K requests through all cores of a pipeline on one clock too"
    )
    group.add_argument("--top", action="store_true", help="show cores and models live while it runs")


def check_options(options: argparse.Namespace) -> None:
    """NX-ARG-002 for options of serving that cannot be read, are missing or go with another use of neuron-run."""
    if options.requests is None:
        names = ("instance", "concurrency", "rate", "distinct", "cosimulate")
        given = [name for name in names if getattr(options, name) is not None]
        if given or options.top:
            raise NeuronError("NX-ARG-002", f"--{(given or ['top'])[0]} goes with --requests")
        if len(options.files) > 1:
            raise NeuronError("NX-ARG-002", "several files can only be served", help="add --requests N")
        return
    ranges = {"requests": (1, MAX_REQUESTS), "concurrency": (1, MAX_REQUESTS), "distinct": (0, MAX_REQUESTS)}
    ranges["cosimulate"] = (1, MAX_REQUESTS)
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise NeuronError("NX-ARG-002", f"--{name} is {value}, must be {low} to {high}")
    if options.rate is not None and (options.concurrency is not None or not 0 < options.rate < 1e12):
        raise NeuronError("NX-ARG-002", "--rate takes a positive number of requests a second, and no --concurrency")
    foreign = [name for name in ("outputs", "per_op", "check_races") if getattr(options, name)]
    if foreign or options.mode != "functional":
        name = (foreign or ["mode"])[0].replace("_", "-")
        raise NeuronError("NX-ARG-002", f"--{name} does not go with --requests")
    if any(path.suffix == ".mlir" for path in options.files):
        raise NeuronError("NX-ARG-002", "only .neff files can be served", help="compile the model with neuron-cc")
    if options.check is not None and len(options.files) > 1:
        raise NeuronError("NX-ARG-002", "--check goes with one model", help="check the models one by one")


def serve(options: argparse.Namespace) -> dict[str, Any]:
    """Serve what the options name; the report. Raises NeuronError, NrtErrors among them."""
    from runtime.neff import read_neff
    from runtime.serving import Runtime
    from tools.top_view import TopView

    neffs = [read_neff(path) for path in options.files]
    name = options.instance or smallest_instance(neffs)
    with Runtime(name) as runtime, TopView(runtime) if options.top else nullcontext() as view:
        models = load_models(runtime, neffs, [path.stem for path in options.files])
        checks = [check_model(model, options) for model in models]
        services = [model.service() for model in models]
        memory = runtime.instance.memory_report()
        report = {
            "instance": runtime.instance.name,
            "target": runtime.instance.target.name,
            "chips": runtime.instance.shape.chips,
            "owned_cores": [runtime.cores.start, runtime.cores.stop],
            "clients": None if options.rate is not None else options.concurrency or DEFAULT_CLIENTS,
            "arrivals_per_s": options.rate,
            **simulated_figures(runtime, services, options, view),
            "one_clock": [
                on_one_clock(model, service.depth, options.cosimulate)
                for model, service in zip(models, services, strict=True)
                if options.cosimulate
            ],
            "notes": [note for model in models for note in model.notes],
            "checks": checks,
            "device_memory": [row for row in memory if row["used"]],
            "assumed_figures": list(runtime.instance.target.assumptions),
        }
    report["wrong"] = sum(check["wrong"] for check in checks)
    return report


def smallest_instance(neffs: Sequence[Neff]) -> str:
    """The smallest instance of the models' target that has a core for each core they need; NX-ARG-002 if none has."""
    from runtime.serving.service import core_use

    target = load_target(neffs[0].target)
    needed = sum(core_use(neff).cores for neff in neffs)
    for instance in sorted(target.instances.values(), key=lambda row: row.chips):
        if instance.chips * int(target.cores_per_chip) >= needed:
            return instance.name
    raise NeuronError("NX-ARG-002", f"no instance with {target.name} cores has {needed} of them")


def load_models(runtime: Runtime, neffs: Sequence[Neff], names: Sequence[str]) -> list[LoadedModel]:
    """Load each model into the next group; without groups on equal shares of the cores, as often as it fits there."""
    if runtime.groups:
        return [runtime.load(neff, name=name) for neff, name in zip(neffs, names, strict=True)]
    from runtime.serving.service import core_use

    needs = [core_use(neff).cores for neff in neffs]
    spare = max(0, len(runtime.cores) - sum(needs))
    models: list[LoadedModel] = []
    start = 0
    for neff, name, need in zip(neffs, names, needs, strict=True):
        share = need + spare // len(neffs)
        models.append(runtime.load(neff, name=name, start_core=start, core_count=share))
        start += share
    return models


# -- outputs -----------------------------------------------------------------------------------------------------------


def check_model(model: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    """Compute the distinct inputs through the runtime and compare each output.

    With --check MODEL.onnx with onnxruntime's, with --check F.npz with its arrays, else bit for bit with those of a
    session that runs nothing beside it. The row: `distinct`, `checked`, `wrong` inputs, `against`, the worst
    rel_l2_error and the tolerance.
    """
    from runtime.session import Session
    from tools.neuron_run import cast_type_of, check

    inputs = distinct_inputs(model, options)
    futures = [model.submit(given) for given in inputs]
    reference: Path = options.check
    alone = Session(model.neff) if options.check is None and inputs else None
    cast_type = cast_type_of(model.neff.report)
    row: dict[str, Any] = {"model": model.name, "distinct": len(inputs), "checked": 0, "wrong": 0}
    row |= {"against": "a session alone" if alone else options.check and options.check.name, "rel_l2_error": 0.0}
    for given, future in zip(inputs, futures, strict=True):
        outputs = future.result().outputs
        if alone is not None:
            expected = alone.run(given).outputs
            is_right = all(_same(value, expected[name]) for name, value in outputs.items())
        else:
            rows = check(reference, model.session(0).bind(given), outputs, cast_type)
            allowed = [_tolerance(found, options.tolerance) for found in rows]
            is_right = all(found["rel_l2_error"] <= most for found, most in zip(rows, allowed, strict=True))
            row["rel_l2_error"] = max(row["rel_l2_error"], *(found["rel_l2_error"] for found in rows))
            row["tolerance"] = max(row.get("tolerance", 0.0), *allowed)
        row["checked"] += 1
        row["wrong"] += not is_right
    return row


def _tolerance(found: Mapping[str, Any], given: float | None) -> float:
    return max(LEAST_TOLERANCE, FLOOR_FACTOR * found.get("floor_rel_l2_error", 0.0)) if given is None else given


def _same(value: Any, expected: Any) -> bool:
    if isinstance(value, np.ndarray) and isinstance(expected, np.ndarray) and value.dtype.kind in "fV":
        same_type = value.dtype == expected.dtype and value.shape == expected.shape
        return same_type and value.tobytes() == expected.tobytes()
    return bool(np.array_equal(value, expected))


def distinct_inputs(model: LoadedModel, options: argparse.Namespace) -> list[dict[str, Array]]:
    """The inputs that are computed: those of --inputs, or random ones from consecutive seeds."""
    from tools.neuron_run import random_inputs, read_npz, with_shapes

    count = min(DEFAULT_DISTINCT if options.distinct is None else options.distinct, options.requests)
    if options.inputs:
        return [read_npz(options.inputs)][:count]
    specs: Specs = {spec.name: (spec.shape, spec.dtype) for spec in model.neff.inputs}
    seed = options.random or 0
    return [random_inputs(with_shapes(specs, options.input_shape), seed + number) for number in range(count)]


# -- figures -----------------------------------------------------------------------------------------------------------


def workload(options: argparse.Namespace, models: int) -> Workload:
    """The requests, for the models in turn: of clients, or at random times with the rate that is given."""
    from runtime.serving.simulation import Workload

    turns = [number % models for number in range(options.requests)]
    if options.rate is None:
        return Workload(turns, options.concurrency or DEFAULT_CLIENTS)
    gaps = np.random.default_rng(options.random or 0).exponential(1e9 / options.rate, options.requests)
    return Workload(turns, arrivals_ns=np.cumsum(gaps).tolist())


def simulated_figures(
    runtime: Runtime, services: Sequence[Service], options: argparse.Namespace, view: Any
) -> dict[str, Any]:
    """The figures of the simulation of queues."""
    from runtime.serving.figures import serving_figures
    from runtime.serving.simulation import simulate

    observer = None if view is None else view.observer(services)
    simulation = simulate(services, runtime.instance.hardware, workload(options, len(services)), observer=observer)
    return serving_figures(simulation, services)


def on_one_clock(model: LoadedModel, inside: int, requests: int) -> dict[str, Any]:
    """All cores of one instance of a model simulated together: `steady_throughput` (1/s) and median latency, without
    host and launches, of so many requests with so many inside at a time.
    """
    from runtime.pipelined import run_pipeline

    timing = run_pipeline(model.neff, requests, inside).timing
    return {
        "model": model.name,
        "requests": requests,
        "inside": inside,
        "steady_throughput": 1e9 / timing.steady_interval_ns,
        "latency_ms_p50": float(np.median(timing.latencies_ns)) * 1e-6,
    }


def text_report(report: Mapping[str, Any]) -> str:
    """The report for people."""
    first, stop = report["owned_cores"]
    clients, rate = report["clients"], report["arrivals_per_s"]
    callers = _count(clients, "client") if clients else f"{rate:g} arrivals a second"
    lines = [
        f"{report['instance']}: {_count(stop - first, 'core')} of {_count(report['chips'], 'chip')}",
        *map(_model_line, report["models"]),
        f"{_count(report['requests'], 'request')} of {callers} in {report['simulated_seconds']:.6g} s (simulated)",
        *_figure_lines("", report),
    ]
    if len(report["models"]) > 1:
        for model in report["models"]:
            lines += _figure_lines(f"{model['name']}: ", model)
    lines.append(f"utilisation {report['utilisation']:.1%} of the cores in use, bubble {report['bubble']:.1%}")
    rows = [f"{core['core']:3d} {core['utilisation']:6.1%}" for core in report["cores"]]
    lines += [f"cores {'  '.join(rows[start : start + 8])}" for start in range(0, len(rows), 8)]
    for row in report["one_clock"]:
        figures = f"steady {row['steady_throughput']:.1f} /s, latency ms p50 {row['latency_ms_p50']:.4g}"
        requests = f"{_count(row['requests'], 'request')}, {row['inside']} inside"
        lines.append(f"{row['model']}: all cores on one clock ({requests}): {figures}")
    used = sum(row["used"] for row in report["device_memory"])
    lines.append(f"device memory {used / 2**20:.2f} MiB on {_count(len(report['device_memory']), 'core')}")
    lines += [*map(_check_line, report["checks"]), *report["notes"]]
    lines.append(f"times rest on {len(report['assumed_figures'])} assumed figures of target {report['target']}")
    return "\n".join(lines)


def _model_line(row: Mapping[str, Any]) -> str:
    return f"{row['name']}: {_count(row['instances'], 'instance')} of {_count(row['cores_per_instance'], 'core')}"


def _figure_lines(prefix: str, row: Mapping[str, Any]) -> list[str]:
    latency = "  ".join(f"{name} {value:.4g}" for name, value in row["latency_ms"].items())
    queueing = "  ".join(f"{name} {value:.4g}" for name, value in row["queueing_ms"].items())
    return [
        f"{prefix}throughput {row['throughput']:.1f} /s, steady {row['steady_throughput']:.1f} /s",
        f"{prefix}latency ms {latency}",
        f"{prefix}queueing ms {queueing}; {row['mean_waiting']:.2f} requests wait on average",
    ]


def _check_line(row: Mapping[str, Any]) -> str:
    if not row["checked"]:
        return f"{row['model']}: outputs not computed"
    verdict = f"{row['wrong']} WRONG" if row["wrong"] else "all right"
    if "tolerance" in row:
        verdict += f", rel_l2_error at most {row['rel_l2_error']:.3g} (allowed {row['tolerance']:.3g})"
    inputs = _count(row["checked"], "distinct input")
    return f"{row['model']}: {inputs} computed and checked against {row['against']}: {verdict}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def exit_code(report: Mapping[str, Any]) -> int:
    """1 when an output was wrong."""
    from tools.errors import EXIT_OK, EXIT_USER_ERROR

    return EXIT_USER_ERROR if report["wrong"] else EXIT_OK
