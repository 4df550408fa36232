"""`neuron-objdump`: show what is in a NEFF: header, members, a summary of the model, and the disassembly of its queues.

Given a file, it prints header, members and summary; with options only the parts asked for, as text or as JSON. The file
is checked as the runtime checks it, so what is printed is what would run. `--unpack` writes the members as files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.version import VERSION
from runtime.neff.container import NeffFile, decode_neff, open_neff, unpack
from runtime.neff.encoding import encode_queue
from runtime.neff.header import HEADER_BYTES, NEFF_VERSION, OPEN_ENCODING_FEATURE, PKG_VERSION
from runtime.neff.manifest import EXECUTORS, host_model_name, subgraph_name
from runtime.neff.model import CORE, Bucket, DynamicDimension, Neff, TensorSpec
from runtime.neff.program_check import VARIABLE_KINDS
from runtime.neff.text import program_text, quoted
from tools.diagnostics import add_common_arguments
from tools.errors import EXIT_OK, run_main
from tools.plugins import add_plugin_argument, load_plugins


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: exit code 0, or as tools/errors.py says."""
    return run_main(_run, argv, "neuron-objdump")


def _run(arguments: Sequence[str]) -> int:
    load_plugins(arguments)
    options = _parser().parse_args(arguments)
    if options.unpack is not None:
        for name in unpack(options.file, options.unpack):
            print(name)
        return EXIT_OK
    file = open_neff(options.file)
    disassemble = options.disassemble or options.queue is not None or options.subgraph is not None
    everything = not (options.header or options.members or disassemble)
    neff = decode_neff(file) if everything or disassemble else None
    parts: dict[str, Any] = {}
    if options.header or everything:
        parts["header"] = header_fields(file)
    if options.members or everything:
        parts["members"] = [{"name": m.name, "offset": m.offset, "size": m.size} for m in file.members.values()]
    if neff is not None and everything:
        parts["summary"] = summary(neff)
    if neff is not None and disassemble:
        parts["disassembly"] = disassembly(neff, options.subgraph, options.queue)
    if options.json:
        print(json.dumps(parts, indent=1))
    else:
        for line in _text(parts):
            print(line)
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    # -h is the header, as in other objdumps.
    parser = argparse.ArgumentParser("neuron-objdump", description=(__doc__ or "").partition("\n")[0], add_help=False)
    parser.add_argument("file", metavar="FILE.neff", help="the compiled file, checked as the runtime checks it")
    parser.add_argument("-h", "--header", action="store_true", help="print the header")
    parser.add_argument("-m", "--members", action="store_true", help="print the members of the archive")
    parser.add_argument("-d", "--disassemble", action="store_true", help="print the programs as assembly")
    parser.add_argument("--queue", metavar="ENGINE", help="disassemble only the queue of this engine")
    parser.add_argument("--subgraph", metavar="N", type=int, help="disassemble only this core program")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--unpack", metavar="DIR", help="write the members into an empty or new folder and list them")
    add_plugin_argument(parser)
    add_common_arguments(parser)
    parser.add_argument("--version", action="version", version=f"neuron-objdump {VERSION}")
    parser.add_argument("--help", action="help", help="show this message and exit")
    return parser


# -- what is shown -----------------------------------------------------------------------------------------------------


def header_fields(file: NeffFile) -> dict[str, Any]:
    """The header's fields under their documented names, as JSON data."""
    header = file.header
    return {
        "name": header.name,
        "neff_build_version": header.build_version,
        "neff_version": ".".join(str(number) for number in NEFF_VERSION),
        "pkg_version": PKG_VERSION,
        "header_size": HEADER_BYTES,
        "data_size": header.data_size,
        "num_tpb": header.num_tpb,
        "feature_bits": f"{OPEN_ENCODING_FEATURE:#018x}",
        "hash": header.hash.hex(),
        "uuid": str(header.uuid),
        "archive": "tar, gzip" if file.compressed else "tar",
    }


def summary(neff: Neff) -> dict[str, Any]:
    """What the model consists of, as JSON data."""
    first, *further = (_bucket(bucket) for bucket in neff.buckets)
    programs = {subgraph_name(i): _program_summary(image.program) for i, image in enumerate(neff.subgraphs)}
    shapes: dict[str, Any] = {}
    if further or neff.dimensions:
        shapes = {
            "further_buckets": further,
            "dimensions": [_dimension(dimension) for dimension in neff.dimensions],
            "padding": dict(neff.padding),
        }
    return {"name": neff.name, "target": neff.target, **first, **shapes, "subgraphs": programs}


def _bucket(bucket: Bucket) -> dict[str, Any]:
    """The model at one set of shapes."""
    nodes = [
        {
            "name": node.name,
            "executor": EXECUTORS[node.executor],
            "callee": subgraph_name(node.callee) if node.executor == CORE else host_model_name(node.callee),
            "inputs": list(node.inputs),
            "outputs": list(node.outputs),
        }
        for node in bucket.graph
    ]
    tensors = {
        kind: [_tensor(tensor) for tensor in specs]
        for kind, specs in (("inputs", bucket.inputs), ("outputs", bucket.outputs))
    }
    return {**tensors, "nodes": nodes}


def _dimension(dimension: DynamicDimension) -> dict[str, Any]:
    """A dimension that a run may choose; `inputs` and `outputs` are pairs of a tensor and an axis."""
    axes = {
        kind: [list(axis) for axis in part]
        for kind, part in (("inputs", dimension.inputs), ("outputs", dimension.outputs))
    }
    return {"name": dimension.name, "independent": dimension.independent, **axes}


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    shape = list(tensor.shape)
    return {"name": tensor.name, "shape": shape, "dtype": tensor.dtype, "device_dtype": tensor.device_dtype}


def _program_summary(program: CoreProgram) -> dict[str, Any]:
    queues = {
        engine: {"entries": len(entries), "bytes": len(encode_queue(entries, engine))}
        for engine, entries in program.queues.items()
    }
    variables: dict[str, Any] = {}
    for kind in VARIABLE_KINDS:
        chosen = [variable for variable in program.variables if variable.kind == kind]
        if chosen:
            variables[kind] = {"count": len(chosen), "bytes": sum(variable.size_bytes for variable in chosen)}
    return {
        "queues": queues,
        "variables": variables,
        "semaphores": list(program.semaphores),
        **({"hand_overs": [asdict(row) for row in program.hand_overs]} if program.hand_overs else {}),
        "macs": program.macs,
        "statistics": dict(program.statistics),
    }


def disassembly(neff: Neff, subgraph: int | None, queue: str | None) -> dict[str, list[str]]:
    """Assembly lines by subgraph, of all programs and queues or of those asked for."""
    if subgraph is not None and not 0 <= subgraph < len(neff.subgraphs):
        raise NeuronError("NX-NEFF-007", f"there is no subgraph {subgraph}; the file has {len(neff.subgraphs)}")
    engines = {engine for image in neff.subgraphs for engine in image.program.queues}
    if queue is not None and queue not in engines:
        raise NeuronError("NX-NEFF-007", f"there is no queue '{queue}'; the file has {', '.join(sorted(engines))}")
    return {
        subgraph_name(index): list(program_text(image.program, queue))
        for index, image in enumerate(neff.subgraphs)
        if subgraph in (None, index)
    }


# -- as text -----------------------------------------------------------------------------------------------------------


def _text(parts: dict[str, Any]) -> Iterator[str]:
    if "header" in parts:
        yield "header"
        for name, value in parts["header"].items():
            yield f"  {name:<20}{value}".encode("ascii", "backslashreplace").decode("ascii")
        yield ""
    if "members" in parts:
        yield "members"
        rows = [("offset", "bytes", "name"), *((m["offset"], m["size"], m["name"]) for m in parts["members"])]
        yield from (f"  {offset:>12}{size:>12}  {name}" for offset, size, name in rows)
        yield ""
    if "summary" in parts:
        yield from _summary_text(parts["summary"])
    for name, lines in parts.get("disassembly", {}).items():
        yield f".subgraph {name}"
        yield from lines
        yield ""


def _summary_text(model: dict[str, Any]) -> Iterator[str]:
    yield f"model {quoted(model['name'])} for {model['target']}"
    for number, bucket in enumerate([model, *model.get("further_buckets", ())]):
        if model.get("further_buckets"):
            yield f" bucket {number}"
        yield from _bucket_text(bucket)
    for dimension in model.get("dimensions", ()):
        axes = ", ".join(f"{quoted(name)}[{axis}]" for name, axis in (*dimension["inputs"], *dimension["outputs"]))
        size = "any size, in pieces" if dimension["independent"] else "up to the largest bucket, padded"
        yield f"  dynamic {quoted(dimension['name'])} {size}: {axes}"
    for name, value in model.get("padding", {}).items():
        yield f"  padding {quoted(name)} {value}"
    for name, program in model["subgraphs"].items():
        yield ""
        yield f"{name}  {program['macs']} multiply-adds, semaphores {' '.join(program['semaphores']) or 'none'}"
        for engine, queue in program["queues"].items():
            yield f"  {engine:<8}{queue['entries']:>10} entries{queue['bytes']:>14} bytes"
        for kind, group in program["variables"].items():
            yield f"  {kind:<8}{group['count']:>10} variables{group['bytes']:>12} bytes"
        for row in program.get("hand_overs", ()):
            peer = f"{subgraph_name(row['peer'])} variable {row['peer_variable']}"
            awaited = f"{row['count']} transfers of semaphore {program['semaphores'][row['semaphore']]}"
            yield f"  hand-over of variable {row['variable']} with {peer}: {awaited}, {row['buffers']} buffers"


def _bucket_text(bucket: dict[str, Any]) -> Iterator[str]:
    for kind in ("inputs", "outputs"):
        for tensor in bucket[kind]:
            shape = "x".join(str(size) for size in tensor["shape"]) or "scalar"
            on_device = "" if tensor["dtype"] == tensor["device_dtype"] else f" (device {tensor['device_dtype']})"
            yield f"  {kind[:-1]:<8}{quoted(tensor['name'])} {tensor['dtype']} {shape}{on_device}"
    for node in bucket["nodes"]:
        arguments = ", ".join(quoted(name) for name in node["inputs"])
        results = ", ".join(quoted(name) for name in node["outputs"])
        yield f"  {node['executor']:<11}{node['callee']}  {quoted(node['name'])} ({arguments}) -> ({results})"


if __name__ == "__main__":
    sys.exit(main())
