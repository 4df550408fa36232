"""The compiler step by step, for a notebook: import a model, run one pass after the other, look at each stage.

pipeline = nt.PassPipeline("model.onnx", nt.CompileOptions(target="trn1"))
pipeline.step()                          # the next pass; a Stage shows its program in a notebook
stage = pipeline.run(until="graph-fuse")
stage.changes()                          # what the pass did, as a diff
stage({"x": x})["y"]                     # every stage computes what the model computes
pipeline.finish().save("model.neff")
"""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from neuron_dialects.errors import NeuronError
from neuron_toolkit.html import preformatted, section
from neuron_toolkit.model import CompiledModel, Mode, Result

if TYPE_CHECKING:
    from onnx import ModelProto

    from lowering.compiler import CompileOptions
    from neuron_dialects.weights import WeightStore


class Stage:
    """The program behind one pass (or behind the import).

    `name`: of the pass; `seconds`: how long it took; `text`: the program as text, weights left out as always;
    `changed`: whether the pass changed anything.
    """

    def __init__(self, name: str, seconds: float, module: ModuleOp, weights: WeightStore, before: Stage | None) -> None:
        self.name = name
        self.seconds = seconds
        self.text = f"{module}\n"
        self.changed = before is None or before.text != self.text
        self.operations: Counter[str] = Counter(op.name for op in module.walk())
        """How many operations there are of each kind."""
        self._before = "" if before is None else before.text
        # A copy shares the weights and costs little; the pipeline goes on changing its own module.
        self.module = module.clone()
        self._weights = weights

    def changes(self, context: int = 3) -> str:
        """What the pass changed, as a unified diff with so many lines around each change."""
        lines = difflib.unified_diff(
            self._before.splitlines(keepends=True), self.text.splitlines(keepends=True), "before", self.name, n=context
        )
        return "".join(lines)

    def __call__(self, inputs: Mapping[str, Any], *, mode: Mode = "functional") -> Result:
        """Execute the program at its level; outputs by name, and a time once it is in queues.

        Raises:
            NeuronError: NX-RUN codes for inputs that do not fit; NX-RUN-013 for a time that the level does not have.
        """
        from lowering.execute import input_names, main_function, output_names, run_module
        from neuron_dialects.graph import spec_of
        from neuron_dialects.neuron import target_of
        from runtime.boundary import bind_inputs
        from runtime.session import timing_figures

        main = main_function(self.module)
        names = input_names(main)
        specs = [spec_of(argument) for argument in main.body.block.args]
        wanted = {name: (tuple(shape), dtype.name) for name, (dtype, shape) in zip(names, specs, strict=True)}
        bound = bind_inputs(wanted, {name: np.asarray(value) for name, value in inputs.items()})
        run = run_module(self.module, self._weights, [bound[name] for name in names], mode)
        figures = timing_figures(run.timings, target_of(self.module)) if run.timings else {}
        outputs = {} if mode == "timing" else dict(zip(output_names(main), run.outputs, strict=True))
        return Result(outputs, figures)

    def __repr__(self) -> str:
        changed = "" if self.changed else ", no change"
        return f"<Stage {self.name}: {sum(self.operations.values())} operations{changed}, {self.seconds:.3f} s>"

    def _repr_html_(self) -> str:
        return section(repr(self)[1:-1], preformatted(self.text))


class PassPipeline:
    """The default pipeline over one model, with its place in it.

    Unlike `compile` it moves nothing to the host that the back end refuses: the refusal is raised.

    Args:
        source: a model file, or an ONNX model in memory.
        options: what to compile for; one set of shapes.

    Raises:
        NeuronError: with a code, for whatever is wrong with model or options.
    """

    def __init__(self, source: str | Path | ModelProto, options: CompileOptions | None = None) -> None:
        from lowering.bounded_scores import with_weights
        from lowering.compiler import CompileOptions, passes_for
        from lowering.frontends import model_name, to_onnx
        from lowering.onnx_to_graph import import_onnx
        from neuron_dialects.neuron import TARGET_ATTRIBUTE, TargetAttr

        self.options = options or CompileOptions()
        self.options.check()
        shapes, *more = self.options.shape_sets()
        if more:
            raise NeuronError("NX-SHAPE-002", "a pipeline goes step by step at one shape, not at several")
        self.name = model_name(Path(source)) if isinstance(source, str | Path) else source.graph.name
        begun = time.perf_counter()
        imported = import_onnx(to_onnx(source), input_shapes=shapes, target=self.options.target)
        self._module, self.weights = imported.module, imported.weights
        self._module.attributes[TARGET_ATTRIBUTE] = TargetAttr(self.options.target)
        self._passes = [
            _made(given) for given in with_weights(passes_for(self.options, imported.info), imported.weights)
        ]
        imported_stage = Stage("import", time.perf_counter() - begun, self._module, self.weights, None)
        self.stages: list[Stage] = [imported_stage]
        """What has been run, the import first."""

    @property
    def passes(self) -> tuple[str, ...]:
        """The names of all passes, in order."""
        return tuple(one.name for one in self._passes)

    @property
    def remaining(self) -> tuple[str, ...]:
        """The names of the passes that have not been run."""
        return self.passes[len(self.stages) - 1 :]

    @property
    def module(self) -> ModuleOp:
        """The program as it is now; changing it changes what the next pass is given."""
        return self._module

    def insert(self, module_pass: ModulePass | str) -> None:
        """Make a pass, or what a spec says, the next one."""
        self._passes.insert(len(self.stages) - 1, _made(module_pass))

    def step(self) -> Stage:
        """Run the next pass. Raises NeuronError for what it refuses, IndexError when there is none."""
        from lowering.pipeline import run_passes

        if not self.remaining:
            raise IndexError("all passes have been run")
        module_pass = self._passes[len(self.stages) - 1]
        begun = time.perf_counter()
        run_passes(Context(), self._module, [module_pass])
        stage = Stage(module_pass.name, time.perf_counter() - begun, self._module, self.weights, self.stages[-1])
        self.stages.append(stage)
        return stage

    def run(self, until: str | None = None) -> Stage:
        """Run passes up to and including the next one called `until`, all of them by default; the last stage.

        NeuronError NX-PASS-001 when none that remains is called so.
        """
        if until is not None and until not in self.remaining:
            raise NeuronError("NX-PASS-001", f"no pass '{until}' remains; {', '.join(self.remaining) or 'none'} do")
        while self.remaining:
            stage = self.step()
            if stage.name == until:
                break
        return self.stages[-1]

    def __iter__(self) -> Iterator[Stage]:
        """Run what remains, stage by stage."""
        while self.remaining:
            yield self.step()

    def finish(self) -> CompiledModel:
        """Run what remains and emit the compiled model."""
        from lowering.compiler import decisions
        from lowering.nisa_to_neff import emit_neff

        self.run()
        report = {"target": self.options.target, **decisions(self._module)}
        seconds: dict[str, float] = {}
        for stage in self.stages:
            seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.seconds
        total = {**seconds, "total": sum(seconds.values())}
        neff = emit_neff(self._module, self.weights, self.name, report)
        return CompiledModel.of(neff, compile_seconds=total)

    def _repr_html_(self) -> str:
        from neuron_toolkit.html import table

        done = [(stage.name, sum(stage.operations.values()), stage.changed, stage.seconds) for stage in self.stages]
        waiting = [(name, "", "", "") for name in self.remaining]
        return section(f"{self.name}: passes", table([*done, *waiting], ("pass", "operations", "changed", "seconds")))


def _made(given: ModulePass | str) -> ModulePass:
    from lowering.pipeline import make_pass

    return make_pass(given) if isinstance(given, str) else given
