"""Requests streamed through the cores of a compiled model, all of them simulated together.

Given a `Neff` and requests, `run_pipeline` runs the core programs on one clock, as the stages of a NeuronCore Pipeline
work on different requests at a time, and gives the outputs of each request and when it was let in and done. Host
segments in front of the first core and behind the last one are computed; they take no simulated time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuron_dialects.errors import NeuronError
from neuron_dialects.target import load_target
from runtime.machine.machine import Array
from runtime.machine.pipeline import Pipeline, PipelineRun, StageWork
from runtime.neff import CORE, GraphNode, Neff
from runtime.session import Session, device_inputs, from_device, parameters_of


@dataclass(frozen=True)
class PipelineResult:
    """`outputs` of each request by name, empty without data; `timing`: what happened when, in ns."""

    outputs: list[dict[str, Array]]
    timing: PipelineRun


def run_pipeline(
    neff: Neff, requests: Sequence[Mapping[str, Array]] | int, inside: int | None = None, first_core: int = 0
) -> PipelineResult:
    """Stream requests through the core programs of a model, which are the stages of a pipeline or a single one.

    Args:
        neff: the model.
        requests: the inputs of each, or how many, of which only the times are simulated.
        inside: requests in the pipeline at a time: as many clients that wait for their answers. None: any number.
        first_core: where the model begins, counted from the first core of a chip.

    Raises NeuronError: NX-RUN-013 for a model that several shapes were compiled for or whose cores pass tensors through
    the host, NX-RUN-003 for stages that wait for each other for ever, and what `Session.run` raises.
    """
    model = _Model(neff)
    target = load_target(neff.target)
    positions = neff.core_positions(neff.buckets[0])
    cores_per_chip = int(target.cores_per_chip)
    chips = [(first_core + core) // cores_per_chip for core in range(neff.cores)]
    programs = [image.program for image in neff.subgraphs]
    pipeline = Pipeline(programs, target, [positions[callee] for callee in range(len(programs))], chips)
    if isinstance(requests, int):
        return PipelineResult([{} for _ in range(requests)], pipeline.run(requests, None, inside))
    values = [model.bound(inputs) for inputs in requests]
    timing = pipeline.run(len(values), model.work(values), inside)
    return PipelineResult([model.finished(*each) for each in zip(values, timing.outputs, strict=True)], timing)


class _Model:
    """A model with its graph in three parts: host segments in front of the cores, core programs, segments behind."""

    def __init__(self, neff: Neff) -> None:
        self.neff, self._session = neff, Session(neff)
        self._specs = {spec.name: spec for spec in (*neff.inputs, *neff.intermediates, *neff.outputs)}
        called = [node for node in neff.graph if node.executor == CORE]
        if neff.further_buckets or sorted(node.callee for node in called) != list(range(len(neff.subgraphs))):
            raise NeuronError("NX-RUN-013", "a model of several shapes, or whose programs are called more than once")
        self._nodes = sorted(called, key=lambda node: node.callee)
        made = {name for node in called for name in node.outputs}
        self._before: list[GraphNode] = []
        self._behind: list[GraphNode] = []
        for node in neff.graph:
            if node.executor != CORE:
                is_behind = bool(made.intersection(node.inputs))
                (self._behind if is_behind else self._before).append(node)
                made.update(node.outputs if is_behind else ())
        read = {name for node in self._behind for name in node.inputs} | {spec.name for spec in neff.outputs}
        self._wanted = [[tensor for tensor in node.outputs if tensor in read] for node in self._nodes]
        self._check_connected({name for node in self._behind for name in node.outputs})

    def _check_connected(self, late: set[str]) -> None:
        """Whatever a program reads comes from the host before it begins, or is handed over to it."""
        makers = {name for node in self._nodes for name in node.outputs}
        for node in self._nodes:
            program = self.neff.subgraphs[node.callee].program
            handed = {row.variable for row in program.hand_overs}
            read = {
                a.buffer
                for q in program.queues.values()
                for e in q
                if e.instruction
                for a in e.instruction.operands.values()
            }
            inputs = [variable for variable in program.variables if variable.kind == "input"]
            for name, variable in zip(node.inputs, inputs, strict=True):
                if name in late or (name in makers and variable.id in read - handed):
                    raise NeuronError(
                        "NX-RUN-013",
                        f"tensor '{name}' reaches core program {node.callee} through the host, while requests stream",
                        help="only the stages of a pipeline, and models of one core segment, can be streamed",
                    )

    def bound(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Every tensor of one request that is there before the first core begins."""
        runs, _ = self._session.split(inputs)
        if len(runs) != 1:
            raise NeuronError("NX-RUN-013", f"inputs that take {len(runs)} runs; a request of a pipeline is one run")
        values = dict(runs[0][1])
        for node in self._before:
            self._session.run_host(node, self._specs, values)
        return values

    def work(self, values: Sequence[Mapping[str, Any]]) -> StageWork:
        """What the programs compute."""
        images = self.neff.subgraphs
        nodes = [(images[node.callee].program, node) for node in self._nodes]
        return StageWork(
            [[device_inputs(program, node, self._specs, own) for program, node in nodes] for own in values],
            [parameters_of(image) for image in images],
            [
                [variable for variable, tensor in self._outputs(node).items() if tensor in wanted]
                for node, wanted in zip(self._nodes, self._wanted, strict=True)
            ],
        )

    def _outputs(self, node: GraphNode) -> dict[str, str]:
        """Output variable of a program -> the tensor that it makes."""
        variables = self.neff.subgraphs[node.callee].program.variables
        return dict(zip([v.name for v in variables if v.kind == "output"], node.outputs, strict=True))

    def finished(self, values: dict[str, Any], made: Mapping[tuple[int, str], Array]) -> dict[str, Array]:
        """The model's outputs of one request, from what its programs made."""
        for (program, variable), value in made.items():
            tensor = self._outputs(self._nodes[program])[variable]
            values[tensor] = from_device(value, self._specs[tensor])
        for node in self._behind:
            self._session.run_host(node, self._specs, values)
        return {spec.name: values[spec.name] for spec in self.neff.outputs}
