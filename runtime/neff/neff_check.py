"""Whether a `Neff` is whole: its programs, its parameters, and a graph in which every tensor is made before it is used.

Runs before writing and after reading, so what passes here is what the runtime may rely on.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.hand_over import peer_problem
from neuron_dialects.isa.program import CoreProgram, DramVariable
from runtime.neff.bucket_check import check_buckets
from runtime.neff.header import MAX_CORES
from runtime.neff.manifest import MAX_SUBGRAPHS, subgraph_name
from runtime.neff.model import (
    CORE,
    HOST,
    OPAQUE,
    Bucket,
    CoreImage,
    GraphNode,
    Neff,
    Parameter,
    TensorSpec,
    is_shared,
    parameter_member,
)
from runtime.neff.program_check import check_program, known_target


def check_neff(neff: Neff) -> None:
    """Raise a NeuronError (NX-NEFF-005, -007, -008 or -010) for the first thing that is missing or contradictory."""
    known_target(neff.target)
    if len(neff.subgraphs) > MAX_SUBGRAPHS:
        raise NeuronError("NX-NEFF-010", f"{len(neff.subgraphs)} core programs, limit {MAX_SUBGRAPHS}")
    for index, image in enumerate(neff.subgraphs):
        label = subgraph_name(index)
        if image.program.target != neff.target:
            raise NeuronError("NX-NEFF-007", f"{label} is for {image.program.target}, the model for {neff.target}")
        check_program(image.program, label)
        check_parameters(image, label)
    _check_shared_parameters(neff)
    problem = peer_problem([image.program for image in neff.subgraphs])
    if problem is not None:
        raise NeuronError("NX-NEFF-007", f"{subgraph_name(problem[0])}: {problem[1]}")
    for position, bucket in enumerate(neff.buckets):
        try:
            _check_graph(neff, bucket)
            _check_shared_cores(neff, bucket)
            _check_hand_overs(neff, bucket)
        except NeuronError as error:
            raise _broken(f"bucket {position}: {error.message}") if position else error from None
    if neff.cores > MAX_CORES:
        raise NeuronError("NX-NEFF-010", f"a run takes {neff.cores} cores, limit {MAX_CORES}")
    check_buckets(neff)


def check_parameters(image: CoreImage, label: str) -> None:
    """Raise NX-NEFF-008 unless exactly the variables of kind `file` have values, and these fit."""
    files = {variable.name: variable for variable in image.program.variables if variable.kind == "file"}
    if files.keys() != image.parameters.keys():
        odd = min(files.keys() ^ image.parameters.keys())
        problem = "has no values" if odd in files else "belongs to no variable"
        raise NeuronError("NX-NEFF-008", f"{label}: parameter {odd[:80]!a} {problem}")
    for name, variable in files.items():
        parameter_bytes(variable, image.parameters[name], label)


def _check_shared_parameters(neff: Neff) -> None:
    """A parameter in another subgraph's file refers to an earlier one that is there and has the same values."""
    owned: dict[str, memoryview] = {}
    for index, image in enumerate(neff.subgraphs):
        label = subgraph_name(index)
        files = [variable for variable in image.program.variables if variable.kind == "file"]
        for variable in files:
            values = parameter_bytes(variable, image.parameters[variable.name], label)
            member = parameter_member(label, variable.file_name)
            if not is_shared(variable.file_name):
                owned[member] = values
                continue
            where = f"{label}: parameter {variable.name[:80]!a}"
            if member not in owned:
                raise NeuronError("NX-NEFF-008", f"{where} is in {member}, which no earlier subgraph has")
            if not _same_bytes(owned[member], values):
                raise NeuronError("NX-NEFF-008", f"{where} has other values than {member}, which it shares")


def _check_shared_cores(neff: Neff, bucket: Bucket) -> None:
    """Programs on one core have pinned buffers apart from each other, and none may write those of another."""
    sharing: dict[int, list[int]] = {}
    for callee, position in neff.core_positions(bucket).items():
        sharing.setdefault(position, []).append(callee)
    for callees in sharing.values():
        own = [(*neff.subgraphs[callee].program.pinned_range, subgraph_name(callee)) for callee in callees]
        ranges = sorted(row for row in own if row[0] < row[1])
        for (_, end, first), (start, _, second) in pairwise(ranges):
            if start < end:
                raise _broken(f"{first} and {second} share a core and byte {start} of its pinned buffers")
        for callee in callees if len(callees) > 1 else ():
            reserved = neff.subgraphs[callee].program.reserved_bytes
            if ranges and reserved < ranges[-1][1]:
                problem = f"reserves {reserved} bytes, pinned buffers of its core end at {ranges[-1][1]}"
                raise _broken(f"{subgraph_name(callee)} {problem}")


def _same_bytes(a: memoryview, b: memoryview) -> bool:
    return a.nbytes == b.nbytes and np.array_equal(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8))


def parameter_bytes(variable: DramVariable, value: Parameter, label: str) -> memoryview:
    """The raw bytes of a parameter, without a copy where it is dense; NX-NEFF-008 if it does not fit its variable."""
    size = variable.size_bytes
    where = f"{label}: parameter {variable.name[:80]!a}"
    if isinstance(value, np.ndarray):
        expected = dtype_by_name(variable.dtype).numpy
        if value.shape != variable.shape or value.dtype != expected:
            raise NeuronError(
                "NX-NEFF-008", f"{where} is {value.dtype} {value.shape}, its variable {expected} {variable.shape}"
            )
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    else:
        raw = memoryview(value)
    if raw.nbytes != size:
        raise NeuronError("NX-NEFF-008", f"{where} has {raw.nbytes} bytes, its variable {size}")
    if variable.dtype == "i1" and size and np.frombuffer(raw, np.uint8).max() > 1:
        raise NeuronError("NX-NEFF-008", f"{where} has booleans other than 0 and 1")
    return raw


# -- the graph ---------------------------------------------------------------------------------------------------------


def _check_graph(neff: Neff, bucket: Bucket) -> None:
    tensors = _tensor_table(bucket, neff.target)
    made = {tensor.name for tensor in bucket.inputs}
    for position, node in enumerate(bucket.graph):
        label = f"node {position} {node.name[:80]!a}"
        _check_callee(node, neff, tensors, label)
        for name in node.inputs:
            if name not in made:
                raise _broken(f"{label} takes tensor {name[:80]!a}, which is not made before it")
        for name in node.outputs:
            if name in made:
                raise _broken(f"{label} makes tensor {name[:80]!a}, which exists already")
            if name not in tensors:
                raise _broken(f"{label} makes tensor {name[:80]!a}, which is not described")
            made.add(name)
    missing = [name for name in tensors if name not in made]
    if missing:
        raise _broken(f"tensor {missing[0][:80]!a} is made by no node")


def _check_hand_overs(neff: Neff, bucket: Bucket) -> None:
    """What programs hand over to one another is the same tensor in the graph, and each of them is called once."""
    tensors: dict[tuple[int, int], str] = {}
    called: set[int] = set()
    for node in bucket.graph:
        if node.executor == CORE:
            program = neff.subgraphs[node.callee].program
            if program.hand_overs and node.callee in called:
                raise _broken(f"{subgraph_name(node.callee)} hands tensors over and is called twice")
            called.add(node.callee)
            for kind, names in (("input", node.inputs), ("output", node.outputs)):
                ids = [variable.id for variable in program.variables if variable.kind == kind]
                tensors.update({(node.callee, id_): name for id_, name in zip(ids, names, strict=True)})
    together: dict[int, list[CoreProgram]] = {}
    for callee, core in neff.core_positions(bucket).items():
        together.setdefault(core, []).append(neff.subgraphs[callee].program)
    for core, programs in together.items():
        counting = [len(program.hand_over_counts) for program in programs]
        own = max(len(program.semaphores) - count for program, count in zip(programs, counting, strict=True))
        limit = int(known_target(neff.target).semaphores)
        if sum(counting) + own > limit:
            raise _broken(f"core {core}: its programs need {sum(counting) + own} semaphores, limit {limit}")
    for callee in called:
        for row in neff.subgraphs[callee].program.hand_overs:
            if tensors[callee, row.variable] != tensors.get((row.peer, row.peer_variable)):
                raise _broken(
                    f"{subgraph_name(callee)} hands over variable {row.variable} with {subgraph_name(row.peer)}, where"
                    f" variable {row.peer_variable} is another tensor"
                )


def _tensor_table(bucket: Bucket, target: str) -> dict[str, TensorSpec]:
    """Every tensor by name. An output may be an input that is passed through; else names are unique."""
    table: dict[str, TensorSpec] = {}
    memory_bytes = int(known_target(target).dram_bytes)
    parts = (("input", bucket.inputs), ("intermediate", bucket.intermediates), ("output", bucket.outputs))
    for kind, tensors in parts:
        names = [tensor.name for tensor in tensors]
        if len(set(names)) != len(names):
            raise _broken(f"an {kind} is listed twice")
        for tensor in tensors:
            _check_size(tensor, memory_bytes)
            if tensor.name in table and (kind != "output" or table[tensor.name] != tensor):
                raise _broken(f"{kind} {tensor.name[:80]!a} is listed twice")
            table[tensor.name] = tensor
    return table


def _check_size(tensor: TensorSpec, memory_bytes: int) -> None:
    """Known element types, and a size that somebody could allocate."""
    where = f"tensor {tensor.name[:80]!a}"
    if OPAQUE in (tensor.dtype, tensor.device_dtype) or -1 in tensor.shape:
        # Only the host sees it: a core program's variables have known types and sizes, and must match.
        return
    try:
        size = max(dtype_by_name(name).size_bytes for name in (tensor.dtype, tensor.device_dtype))
    except ValueError as error:
        raise _broken(f"{where}: {error}") from None
    if any(n < 0 for n in tensor.shape) or _elements(tensor) * size > memory_bytes:
        raise _broken(f"{where} of shape {tensor.shape} exceeds the {memory_bytes} bytes of a core's DRAM")


def _elements(tensor: TensorSpec) -> int:
    return math.prod(tensor.shape)


def _check_callee(node: GraphNode, neff: Neff, tensors: Mapping[str, TensorSpec], label: str) -> None:
    callees: dict[str, Sequence[object]] = {CORE: neff.subgraphs, HOST: neff.host_models}
    if node.executor not in callees or not 0 <= node.callee < len(callees[node.executor]):
        raise _broken(f"{label} calls {node.executor} {node.callee}, which does not exist")
    if node.executor == CORE:
        program = neff.subgraphs[node.callee].program
        _check_arguments(node.inputs, "input", program, tensors, label)
        _check_arguments(node.outputs, "output", program, tensors, label)


def _check_arguments(
    names: Sequence[str], kind: str, program: CoreProgram, tensors: Mapping[str, TensorSpec], label: str
) -> None:
    """The tensors that a core node passes are as many as the program's variables, of their types and sizes."""
    variables = [variable for variable in program.variables if variable.kind == kind]
    if len(variables) != len(names):
        raise _broken(f"{label} has {len(names)} {kind}s, its program {len(variables)}")
    for name, variable in zip(names, variables, strict=True):
        if name not in tensors:
            raise _broken(f"{label}: {kind} {name[:80]!a} is not described")
        tensor = tensors[name]
        elements = _elements(tensor)
        if (tensor.device_dtype, elements) != (variable.dtype, variable.elements):
            raise _broken(
                f"{label}: {kind} {name[:80]!a} has {elements} elements of {tensor.device_dtype}, "
                f"its variable {variable.elements} of {variable.dtype}"
            )


def _broken(message: str) -> NeuronError:
    return NeuronError("NX-NEFF-005", message)
