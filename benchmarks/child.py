"""One step of a measurement in a process of its own: `python child.py compile|run|onnxruntime SETTINGS.json`.

It prints one JSON object. It is run as a file, with the revision to be measured first on the path, so that another
revision is measured by the same code; it uses only what every revision has: compile_model, NEFF files and sessions.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
CAST_TOLERANCE = 3e-2
"""rel_l2_error that a model may have whose matmuls are in bf16; or three times the error that rounding alone causes."""
REPEATS = 3


def _inputs(settings: dict[str, Any]) -> dict[str, Array]:
    with np.load(settings["inputs"], allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def peak_bytes() -> int:
    """Most memory of this process. The kernel's figure for `getrusage` begins with that of the process which started
    it; the one of the address space does not, where there is one.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compile_step(settings: dict[str, Any]) -> dict[str, Any]:
    """Import to NEFF file: seconds (wall and processor), peak memory, what the report says of spills and the host."""
    began, cpu = time.perf_counter(), time.process_time()
    from lowering.compiler import CompileOptions, compile_model
    from runtime.neff import write_neff

    shapes = {name: value.shape for name, value in _inputs(settings).items()}
    extra: dict[str, Any] = {"without": tuple(settings["without"])} if settings.get("without") else {}
    extra["auto_cast"] = settings.get("auto_cast", "all")
    result = compile_model(settings["model"], CompileOptions(settings["target"], input_shapes=shapes, **extra))
    assert result.neff is not None
    write_neff(result.neff, settings["neff"])
    report = result.report
    on_host = sorted({row["op"] for row in report["partition"] if row["where"] != "core"})
    return {
        "compile_seconds": time.perf_counter() - began,
        "compile_cpu_seconds": time.process_time() - cpu,
        "compile_peak_bytes": peak_bytes(),
        "compile_phases": report["compile_seconds"],
        "instruction_bytes": report["instruction_bytes"],
        "neff_bytes": Path(settings["neff"]).stat().st_size,
        "spills": len(report["spills"]),
        "spill_bytes": sum(int(m.group(1)) for row in report["spills"] if (m := re.search(r"(\d+) bytes", row))),
        "host_operators": on_host,
        "assumptions": report["assumptions"],
    }


def onnxruntime_step(settings: dict[str, Any]) -> dict[str, Any]:
    """onnxruntime on one thread with all its optimisations: processor seconds of the quickest of several runs.

    Nothing for a model with bf16 inputs, for which it has no kernels on the CPU.
    """
    import onnx
    import onnxruntime

    graph = onnx.load(settings["model"], load_external_data=False).graph
    if _takes_bf16(graph):
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(settings["model"], options, providers=["CPUExecutionProvider"])
    feeds = _inputs(settings)
    session.run(None, feeds)
    return {"onnxruntime_seconds": min(_seconds(lambda: session.run(None, feeds)) for _ in range(REPEATS))}


def _takes_bf16(graph: Any) -> bool:
    from onnx import TensorProto

    return any(value.type.tensor_type.elem_type == TensorProto.BFLOAT16 for value in graph.input)


def _seconds(action: Any) -> float:
    """Processor seconds of a call: what it takes on one thread, whatever else the computer does."""
    began = time.process_time()
    action()
    return time.process_time() - began


def run_step(settings: dict[str, Any]) -> dict[str, Any]:
    """Timing of the compiled program, the interpreter's own seconds, and the error of the outputs."""
    from runtime.neff import read_neff
    from runtime.session import Session

    session, feeds = Session(read_neff(settings["neff"])), _inputs(settings)
    result = session.run(feeds, "timing")
    again = min(_seconds(lambda: session.run(feeds, "timing")) for _ in range(REPEATS))
    dynamic = sum(e.instruction_count + e.control_count for t in result.timings for e in t.engines.values())
    record: dict[str, Any] = {
        "figures": session.summary(result),
        "compulsory_bytes": sum(t.compulsory_bytes for t in result.timings),
        "dynamic_instructions": dynamic,
        "timing_seconds": again,
        "timing_instructions_per_second": dynamic / again,
    }
    if settings["check"]:
        record["interpreter_first_seconds"] = _seconds(lambda: session.run(feeds, "functional"))
        outputs: dict[str, Array] = {}
        took: list[float] = []
        for _ in range(REPEATS):
            began = time.process_time()
            outputs = session.run(feeds, "functional").outputs
            took.append(time.process_time() - began)
        record["interpreter_seconds"] = min(took)
        record |= _checked(settings["model"], feeds, outputs)
    return record


def _checked(model: str, feeds: dict[str, Array], outputs: dict[str, Array]) -> dict[str, Any]:
    """Error of the worst output against onnxruntime, and its limit."""
    from runtime.reference import errors, rounded, rounded_model, run_onnxruntime

    expected = _reference(model, feeds)
    found = {name: errors(value, expected[name])["rel_l2_error"] for name, value in outputs.items()}
    error, limit = max(found.values(), default=0.0), CAST_TOLERANCE
    if error > limit:
        near = {n: rounded(v, "bf16") if v.dtype == np.float32 else v for n, v in feeds.items()}
        floors = run_onnxruntime(rounded_model(model, "bf16"), near)
        limit = max(limit, 3 * max(errors(floors[name], expected[name])["rel_l2_error"] for name in outputs))
    return {"rel_l2_error": error, "rel_l2_limit": limit, "correct": error <= limit}


def _reference(model: str, feeds: dict[str, Array]) -> dict[str, Array]:
    """onnxruntime's outputs. It multiplies no bf16: a lone product of bf16 inputs is computed in float32 instead."""
    import onnx

    from runtime.reference import run_onnxruntime

    graph = onnx.load(model, load_external_data=False).graph
    if _takes_bf16(graph) and len(graph.node) == 1 and graph.node[0].op_type in ("MatMul", "Gemm"):
        (node,) = graph.node
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        left, right = (feeds[name] for name in node.input)
        return {graph.output[0].name: (left.T if turned else left) @ right}
    return run_onnxruntime(model, feeds)


STEPS = {"compile": compile_step, "run": run_step, "onnxruntime": onnxruntime_step}

if __name__ == "__main__":
    # The folder of this file comes first on the path; what is measured must be found before anything beside it.
    sys.path.pop(0)
    print(json.dumps(STEPS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))))
