"""`python -m examples.digits`: what `make demo` shows.

Compiles digits_cnn.onnx (trained on the UCI handwritten digits) for 360 images at once, runs them on the interpreted
NeuronCore, and prints the accuracy beside onnxruntime's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

HERE = Path(__file__).resolve().parent
OUTPUT = Path("build")
Array = np.ndarray[Any, np.dtype[Any]]


def compile_with_progress(console: Console, target: str, batch: int) -> Any:
    """Compile the model, one step of a progress bar per pass."""
    from lowering.compiler import CompileOptions, compile_model
    from lowering.pipeline import pass_specs

    steps = len(pass_specs()) + 2
    with Progress(
        SpinnerColumn(), TextColumn("compiling"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        console=console, transient=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("import", total=steps)
        options = CompileOptions(target=target, input_shapes={"image": (batch, 1, 8, 8)})
        result = compile_model(
            HERE / "digits_cnn.onnx", options, lambda name: progress.update(task, advance=1, description=name)
        )
        progress.update(task, completed=steps)
    return result


def main() -> int:
    """Compile, run, compare, report; 1 when compiling fails or the accuracy is not onnxruntime's."""
    from neuron_dialects.errors import NeuronError
    from runtime.neff import write_neff

    console = Console()
    target = sys.argv[1] if len(sys.argv) > 1 else "inf1"
    with np.load(HERE / "digits_test.npz", allow_pickle=False) as data:
        images, labels = data["image"], data["label"]
    try:
        console.print(f"[bold]digits_cnn.onnx[/bold] for {target}: ONNX -> graph -> tile -> nisa -> NEFF")
        result = compile_with_progress(console, target, len(images))
    except NeuronError as error:
        console.print(error.format())
        return 1
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / f"digits_cnn.{target}.neff"
    assert result.neff is not None
    write_neff(result.neff, path)
    report = result.report
    rows, seconds = report["partition"], report["compile_seconds"]["total"]
    on_core = sum(row["where"] == "core" for row in rows)
    console.print(f"  {on_core} of {len(rows)} ops on the core, compiled in {seconds:.1f} s")
    console.print(
        f"  instructions {report['instruction_bytes']:,} bytes, "
        f"peak SBUF {report['peak_sbuf_bytes']:,} bytes a partition"
    )
    ours, theirs = run_and_compare(console, path, images, labels)
    if report["assumptions"]:
        console.print(f"  {len(report['assumptions'])} figures of {target} are assumptions (docs/reference/targets.md)")
    console.print(f"NEFF: {path}   (neuron-objdump -d {path})")
    return 0 if abs(ours - theirs) <= 0.01 else 1


def run_and_compare(console: Console, path: Path, images: Array, labels: Array) -> tuple[float, float]:
    """Run the NEFF on all images; its accuracy and onnxruntime's, both printed with the simulated time."""
    from runtime.neff import read_neff
    from runtime.reference import run_onnxruntime
    from runtime.session import Session

    session = Session(read_neff(path))
    name = session.neff.inputs[0].name
    console.print(f"running {len(images)} images on one interpreted NeuronCore")
    started = time.perf_counter()
    run = session.run({name: images}, "both")
    seconds = time.perf_counter() - started
    (scores,) = run.outputs.values()
    expected = next(iter(run_onnxruntime(HERE / "digits_cnn.onnx", {name: images}).values()))
    ours, theirs = (float((s.argmax(axis=1) == labels).mean()) for s in (scores, expected))
    console.print(f"  accuracy [bold]{ours:.4f}[/bold]   onnxruntime {theirs:.4f}   (interpreted in {seconds:.1f} s)")
    figures = session.summary(run)
    active = {name: figures[f"{name}_engine_active_time_percent"] for name in ("tensor", "scalar", "vector")}
    console.print(
        f"  simulated time {figures['total_time'] * 1e6:,.0f} us, roofline {figures['roofline_time'] * 1e6:,.0f} us; "
        f"engines active: {', '.join(f'{name} {share:.0%}' for name, share in active.items())}"
    )
    return ours, theirs


if __name__ == "__main__":
    sys.exit(main())
