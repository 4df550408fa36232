"""The public interface: compile a model, load it, run or serve it; go through the compiler step by step; plug-ins.

    import neuron_toolkit as nt

    model = nt.compile("model.onnx", nt.CompileOptions(target="trn1"))
    result = nt.load(model)({"x": x}, mode="both")

docs/python-api.md is the manual. Names that are not listed here may change with every version.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuron_dialects.errors import NeuronError
from neuron_dialects.version import VERSION as __version__
from neuron_toolkit.plugin import GraphOperator, NewInstruction, Plugin, load_plugin, loaded_plugins

if TYPE_CHECKING:
    from lowering.compiler import CompileOptions
    from neuron_toolkit.cache import CompileCache
    from neuron_toolkit.model import CompiledModel, LoadedModel, Result, compile, load
    from neuron_toolkit.pipeline import PassPipeline, Stage
    from neuron_toolkit.profile import ModelProfile
    from runtime.pipelined import run_pipeline
    from runtime.serving import DataParallel, DynamicBatcher, NrtError, Runtime, SimulatedInstance, Status

__all__ = [
    "CompileCache",
    "CompileOptions",
    "CompiledModel",
    "DataParallel",
    "DynamicBatcher",
    "GraphOperator",
    "LoadedModel",
    "ModelProfile",
    "NeuronError",
    "NewInstruction",
    "NrtError",
    "PassPipeline",
    "Plugin",
    "Result",
    "Runtime",
    "SimulatedInstance",
    "Stage",
    "Status",
    "__version__",
    "compile",
    "load",
    "load_plugin",
    "loaded_plugins",
    "run_pipeline",
]

_LATE = {
    "CompileCache": "neuron_toolkit.cache",
    "CompileOptions": "lowering.compiler",
    "CompiledModel": "neuron_toolkit.model",
    "DataParallel": "runtime.serving",
    "DynamicBatcher": "runtime.serving",
    "LoadedModel": "neuron_toolkit.model",
    "ModelProfile": "neuron_toolkit.profile",
    "NrtError": "runtime.serving",
    "PassPipeline": "neuron_toolkit.pipeline",
    "Result": "neuron_toolkit.model",
    "Runtime": "runtime.serving",
    "SimulatedInstance": "runtime.serving",
    "Stage": "neuron_toolkit.pipeline",
    "Status": "runtime.serving",
    "compile": "neuron_toolkit.model",
    "load": "neuron_toolkit.model",
    "run_pipeline": "runtime.pipelined",
}
"""What is imported when it is first used: command lines import this package for its plug-ins alone."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'neuron_toolkit' has no attribute '{name}'")
    return getattr(import_module(_LATE[name]), name)
