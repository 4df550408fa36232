"""The JSON members of a NEFF: what each says about a model, and their descriptions for reading them back.

`json_members` gives the plain data of every JSON member. The reader takes from them what it needs to rebuild the
`Neff`, then makes them again from the result: a member that differs contradicts the others and is refused. So nothing
derived (edges, sizes, queue owners) can be wrong in a file that was read. The names and keys are those that are
documented for NEFFs; what the format has no place for stands under the key `neuron_toolkit`.
"""

from typing import Any

from neuron_dialects.dtypes import DTYPES
from neuron_dialects.isa.program import CoreProgram, DramVariable, HandOver, QueueEntry
from runtime.neff.header import BUILD_VERSION, MAX_CORES
from runtime.neff.json_check import AnyJson, Boolean, Description, Integer, ListOf, MapOf, Number, Record, Text
from runtime.neff.model import CORE, HOST, OPAQUE, Bucket, DynamicDimension, GraphNode, Neff, TensorSpec
from runtime.neff.program_check import (
    MAX_DIMENSION,
    MAX_RANK,
    VARIABLE_KINDS,
    hand_over_rings,
    known_target,
    used_rings,
)
from runtime.neff.records import ENCODING_VERSION, ENGINE_CODES, FINGERPRINT

INFO, TOP_GRAPH, KELF, METRICS = "info.json", "neff.json", "kelf-0.json", "metrics.json"
KELF_VERSION = "0.5"
EXECUTORS = {CORE: "NeuronCore", HOST: "CPU"}
"""Who runs a node, in our words and in those of the format."""

ENGINES = tuple(engine for engine in ENGINE_CODES if engine != "dma")
PINNED_CODE = "pinned.bin"
"""Member of a subgraph with the transfers that fill pinned buffers when the model is loaded."""

PINNED_OWNER = "load"
"""Owner of their queue: no engine, but whoever loads the model."""

VARIABLE_TYPES = {kind: "tmp-buf" if kind == "tmp" else kind for kind in VARIABLE_KINDS}
"""Kind of a DRAM variable -> its type in def.json."""

_DTYPE = Text(choices=tuple(row.name for row in DTYPES))
_SHAPE = ListOf(Integer(0, MAX_DIMENSION), MAX_RANK)
_NAMES = ListOf(Text())
_TENSOR_DTYPE = Text(choices=(*(row.name for row in DTYPES), OPAQUE))
_TENSOR_SHAPE = ListOf(Integer(-1, MAX_DIMENSION), MAX_RANK)
_TENSORS = ListOf(
    Record({"name": Text(), "shape": _TENSOR_SHAPE, "dtype": _TENSOR_DTYPE, "device_dtype": _TENSOR_DTYPE})
)
_SIGNED = Integer(low=-MAX_DIMENSION)

INFO_JSON = Record(
    {
        "tool_version": Text(),
        "name": Text(),
        "target": Text(),
        "instruction_encoding": Record({"name": Text(), "version": Integer(), "fingerprint": Text()}),
    }
)

_BUCKET: dict[str, Description] = {
    "nodes": ListOf(
        Record(
            {
                "name": Text(),
                "executor": Text(choices=tuple(EXECUTORS.values())),
                "callee": Text(),
                "inputs": _NAMES,
                "outputs": _NAMES,
            }
        )
    ),
    "edges": ListOf(Record({"tensor": Text(), "from": Integer(-1), "to": Integer(-1)})),
    "inputs": _TENSORS,
    "outputs": _TENSORS,
    "intermediates": _TENSORS,
}
MAX_BUCKETS = 64
"""Sets of input shapes in one file."""

MAX_DIMENSIONS = 64
"""Dynamic dimensions of one model."""

_AXES = ListOf(Record({"tensor": Text(), "axis": Integer(0, MAX_RANK - 1)}))
_SHAPES = Record(
    {
        "buckets": ListOf(Record(_BUCKET), MAX_BUCKETS - 1),
        "dimensions": ListOf(
            Record({"name": Text(), "independent": Boolean(), "inputs": _AXES, "outputs": _AXES}), MAX_DIMENSIONS
        ),
        "padding": MapOf(Number()),
    }
)

TOP_GRAPH_JSON = Record({**_BUCKET, "host_models": _NAMES}, {"neuron_toolkit": _SHAPES})

MAX_SUBGRAPHS = MAX_CORES * MAX_BUCKETS
"""Core programs of one file."""

KELF_JSON = Record({"version": Text(), "graphs": ListOf(Record({"name": Text(), "definition": Text()}), MAX_SUBGRAPHS)})

METRICS_JSON = MapOf(AnyJson())

MAX_HAND_OVERS = 4096
"""Tensors that one program exchanges with other cores."""

_REMOTE = Record({"core": Integer(), "chip": Integer(), "semaphore": Integer()})

_HAND_OVER = Record(
    {
        **dict.fromkeys(("var_id", "core", "chip", "peer_var_id", "semaphore", "count", "buffers"), Integer()),
        "peer": Text(),
    }
)

DEFINITION_JSON = Record(
    {
        "name": Text(),
        "var": MapOf(
            Record(
                {"type": Text(choices=tuple(VARIABLE_TYPES.values())), "var_id": Integer(), "size": Integer()},
                {"file_name": Text()},
            )
        ),
        "dma_queue": MapOf(
            Record(
                {"type": Text(), "num_queues": Integer(), "owner": Text()},
                {"semaphore": Integer(), "pinned": Boolean(), "remote_semaphores": ListOf(_REMOTE, MAX_HAND_OVERS)},
            )
        ),
        "semaphore": _NAMES,
        "neuron_toolkit": Record(
            {"target": Text(), "macs": Integer(), "compulsory_bytes": Integer(), "statistics": MapOf(_SIGNED)},
            {
                "pinned": Record({"instr": Text(), "entries": Integer(), "bytes_per_partition": Integer()}),
                "core": Integer(0, MAX_CORES - 1),
                "reserved_bytes_per_partition": Integer(1),
                "hand_over": ListOf(_HAND_OVER, MAX_HAND_OVERS),
            },
        ),
    },
    {engine: Text() for engine in ENGINES},
)

TENSOR_MAP_JSON = MapOf(Record({"var_id": Integer(), "dtype": _DTYPE, "shape": _SHAPE}))

ENGINE_JSON = Record(
    {
        "instr": Text(),
        "dma": ListOf(AnyJson()),
        "neuron_toolkit": Record({"entries": Integer(), "rings": _NAMES}),
    }
)

DEBUG_JSON = Record({"origins": _NAMES})


def subgraph_name(index: int) -> str:
    """Name and folder of core program `index`."""
    return f"sg{index:02d}"


def host_model_name(index: int) -> str:
    """Member that holds host model `index`."""
    return f"host/{index:02d}.onnx"


def debug_name(subgraph: str) -> str:
    """Member that holds the framework node names of a subgraph."""
    return f"debug_info/{subgraph}.json"


# -- model to JSON -----------------------------------------------------------------------------------------------------


def json_members(neff: Neff) -> dict[str, Any]:
    """Member name -> plain data, for every JSON member, in file order."""
    members: dict[str, Any] = {INFO: _info(neff), TOP_GRAPH: _top_graph(neff)}
    names = [subgraph_name(index) for index in range(len(neff.subgraphs))]
    if names:
        graphs = [{"name": name, "definition": f"{name}/def.json"} for name in names]
        members[KELF] = {"version": KELF_VERSION, "graphs": graphs}
    members[METRICS] = neff.report
    places = _Places(neff)
    for number, (name, image) in enumerate(zip(names, neff.subgraphs, strict=True)):
        program = image.program
        members[f"{name}/def.json"] = _definition(number, name, places)
        members[f"{name}/tensor_map.json"] = {
            variable.name: {"var_id": variable.id, "dtype": variable.dtype, "shape": [int(n) for n in variable.shape]}
            for variable in program.variables
        }
        for engine in queue_engines(program):
            members[f"{name}/{engine}.json"] = _engine(engine, program.queues[engine])
        members[debug_name(name)] = {"origins": list(program.origins)}
    return members


def queue_engines(program: CoreProgram) -> list[str]:
    """The engines that have a queue, in canonical order."""
    return [engine for engine in ENGINES if engine in program.queues]


def _info(neff: Neff) -> dict[str, Any]:
    return {
        "tool_version": BUILD_VERSION,
        "name": neff.name,
        "target": neff.target,
        "instruction_encoding": {
            "name": "neuron-toolkit open-encoding",
            "version": ENCODING_VERSION,
            "fingerprint": f"{FINGERPRINT:016x}",
        },
    }


def _top_graph(neff: Neff) -> dict[str, Any]:
    first, *further = neff.buckets
    top = {**_bucket(first), "host_models": [host_model_name(index) for index in range(len(neff.host_models))]}
    if further or neff.dimensions or neff.padding:
        top["neuron_toolkit"] = {
            "buckets": [_bucket(bucket) for bucket in further],
            "dimensions": [_dimension(dimension) for dimension in neff.dimensions],
            "padding": dict(neff.padding),
        }
    return top


def _dimension(dimension: DynamicDimension) -> dict[str, Any]:
    inputs, outputs = (
        [{"tensor": tensor, "axis": axis} for tensor, axis in axes] for axes in (dimension.inputs, dimension.outputs)
    )
    return {"name": dimension.name, "independent": dimension.independent, "inputs": inputs, "outputs": outputs}


def _bucket(bucket: Bucket) -> dict[str, Any]:
    callee_name = {CORE: subgraph_name, HOST: host_model_name}
    return {
        "nodes": [
            {
                "name": node.name,
                "executor": EXECUTORS[node.executor],
                "callee": callee_name[node.executor](node.callee),
                "inputs": list(node.inputs),
                "outputs": list(node.outputs),
            }
            for node in bucket.graph
        ],
        "edges": _edges(bucket),
        "inputs": [_tensor(tensor) for tensor in bucket.inputs],
        "outputs": [_tensor(tensor) for tensor in bucket.outputs],
        "intermediates": [_tensor(tensor) for tensor in bucket.intermediates],
    }


def _edges(bucket: Bucket) -> list[dict[str, Any]]:
    """Who makes and who takes each tensor, by position of the node; -1 is the outside."""
    makers = {tensor.name: -1 for tensor in bucket.inputs}
    makers |= {name: position for position, node in enumerate(bucket.graph) for name in node.outputs}
    uses = [(name, position) for position, node in enumerate(bucket.graph) for name in node.inputs]
    uses += [(tensor.name, -1) for tensor in bucket.outputs]
    return [{"tensor": name, "from": makers[name], "to": position} for name, position in uses]


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    shape = [int(size) for size in tensor.shape]
    return {"name": tensor.name, "shape": shape, "dtype": tensor.dtype, "device_dtype": tensor.device_dtype}


class _Places:
    """Where the programs of a pipeline run when the first of its cores is the first one of a chip."""

    def __init__(self, neff: Neff) -> None:
        self.programs = [image.program for image in neff.subgraphs]
        self._cores = neff.core_positions(neff.buckets[0])
        self._cores_per_chip = int(known_target(neff.target).cores_per_chip)

    def of(self, program: int) -> dict[str, int]:
        """Core and chip of a program."""
        core = self._cores.get(program, program)
        return {"core": core, "chip": core // self._cores_per_chip}

    def hand_overs(self, program: CoreProgram) -> list[dict[str, Any]]:
        """What a program exchanges with others."""
        return [
            {
                "var_id": row.variable,
                "peer": subgraph_name(row.peer),
                **self.of(row.peer),
                "peer_var_id": row.peer_variable,
                "semaphore": row.semaphore,
                "count": row.count,
                "buffers": row.buffers,
            }
            for row in program.hand_overs
        ]

    def remote_semaphores(self, own: int, ring: str) -> list[dict[str, int]]:
        """What transfers of a ring of a program count up on other cores."""
        program = self.programs[own]
        found: list[dict[str, int]] = []
        for row in program.hand_overs:
            if ring in hand_over_rings(program, row.variable):
                semaphore = self.programs[row.peer].other_side(own, row).semaphore
                found.append({**self.of(row.peer), "semaphore": semaphore})
        return [place for number, place in enumerate(found) if place not in found[:number]]


def _definition(number: int, name: str, places: _Places) -> dict[str, Any]:
    program = places.programs[number]
    variables: dict[str, Any] = {}
    for variable in program.variables:
        kind = VARIABLE_TYPES[variable.kind]
        variables[variable.name] = {"type": kind, "var_id": variable.id, "size": variable.size_bytes}
        if variable.file_name:
            variables[variable.name]["file_name"] = variable.file_name
    queues: dict[str, Any] = {}
    for engine in queue_engines(program):
        for ring in used_rings(program.queues[engine]):
            queue = queues.setdefault(ring, {"type": "data", "num_queues": 1, "owner": engine})
            if ring in program.semaphores:
                queue["semaphore"] = program.semaphores.index(ring)
    for ring, queue in queues.items():
        if remote := places.remote_semaphores(number, ring):
            queue["remote_semaphores"] = remote
    for ring in used_rings(program.pinned):
        queues[ring] = {"type": "data", "num_queues": 1, "owner": PINNED_OWNER, "pinned": True}
    own: dict[str, Any] = {
        "target": program.target,
        "macs": int(program.macs),
        "compulsory_bytes": int(program.compulsory_bytes),
        "statistics": {key: int(value) for key, value in program.statistics.items()},
    }
    if program.pinned:
        own["pinned"] = {
            "instr": PINNED_CODE,
            "entries": len(program.pinned),
            "bytes_per_partition": program.pinned_bytes,
        }
    if program.core is not None:
        own["core"] = program.core
    if program.reserved_bytes:
        own["reserved_bytes_per_partition"] = program.reserved_bytes
    if program.hand_overs:
        own["hand_over"] = places.hand_overs(program)
    return {
        "name": name,
        "var": variables,
        "dma_queue": queues,
        "semaphore": list(program.semaphores),
        **{engine: f"{engine}.json" for engine in queue_engines(program)},
        "neuron_toolkit": own,
    }


def _engine(engine: str, entries: list[QueueEntry]) -> dict[str, Any]:
    # Our DMA instructions carry their descriptors themselves, so the documented descriptor list is empty.
    own = {"entries": len(entries), "rings": used_rings(entries)}
    return {"instr": f"{engine}.bin", "dma": [], "neuron_toolkit": own}


# -- JSON to model -----------------------------------------------------------------------------------------------------


def bucket_from_json(value: dict[str, Any], subgraphs: int, host_models: int) -> Bucket:
    """The bucket of an object that has the keys of one."""
    return Bucket(
        nodes_from_json(value["nodes"], subgraphs, host_models),
        tensors_from_json(value["inputs"]),
        tensors_from_json(value["outputs"]),
        tensors_from_json(value["intermediates"]),
    )


def dimensions_from_json(values: list[dict[str, Any]]) -> list[DynamicDimension]:
    """The dynamic dimensions of a list that fits `TOP_GRAPH_JSON`."""
    return [
        DynamicDimension(
            value["name"],
            value["independent"],
            *(tuple((axis["tensor"], axis["axis"]) for axis in value[key]) for key in ("inputs", "outputs")),
        )
        for value in values
    ]


def tensors_from_json(values: list[dict[str, Any]]) -> list[TensorSpec]:
    """The tensors of a list that fits `TOP_GRAPH_JSON`."""
    return [TensorSpec(v["name"], tuple(v["shape"]), v["dtype"], v["device_dtype"]) for v in values]


def nodes_from_json(values: list[dict[str, Any]], subgraphs: int, host_models: int) -> list[GraphNode]:
    """The nodes of a list that fits `TOP_GRAPH_JSON`, calling so many programs and models; an unknown callee is -1."""
    callees = {subgraph_name(index): index for index in range(subgraphs)}
    callees |= {host_model_name(index): index for index in range(host_models)}
    executors = {text: executor for executor, text in EXECUTORS.items()}
    nodes: list[GraphNode] = []
    for value in values:
        callee = callees.get(value["callee"], -1)
        inputs, outputs = tuple(value["inputs"]), tuple(value["outputs"])
        nodes.append(GraphNode(executors[value["executor"]], callee, inputs, outputs, value["name"]))
    return nodes


def hand_overs_from_json(definition: dict[str, Any], subgraphs: int) -> tuple[HandOver, ...]:
    """The hand-overs of a subgraph of so many; an unknown peer is -1."""
    numbers = {subgraph_name(index): index for index in range(subgraphs)}
    return tuple(
        HandOver(
            variable=row["var_id"],
            peer=numbers.get(row["peer"], -1),
            peer_variable=row["peer_var_id"],
            semaphore=row["semaphore"],
            count=row["count"],
            buffers=row["buffers"],
        )
        for row in definition["neuron_toolkit"].get("hand_over", [])
    )


def variables_from_json(definition: dict[str, Any], tensor_map: dict[str, Any]) -> list[DramVariable]:
    """The variables of a subgraph, in the order of its tensor map; one that only one of the two has is left out."""
    kinds = {text: kind for kind, text in VARIABLE_TYPES.items()}
    variables: list[DramVariable] = []
    for name, tensor in tensor_map.items():
        if name in definition["var"]:
            entry = definition["var"][name]
            shape, file_name = tuple(tensor["shape"]), entry.get("file_name", "")
            kind = kinds[entry["type"]]
            variables.append(DramVariable(tensor["var_id"], name, kind, tensor["dtype"], shape, file_name))
    return variables
