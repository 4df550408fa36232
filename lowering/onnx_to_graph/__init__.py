"""Import of ONNX models into the graph dialect: `import_onnx`."""

from lowering.onnx_to_graph.importer import INPUT_NAMES, OUTPUT_NAMES, import_onnx
from lowering.onnx_to_graph.result import HostNode, ImportInfo, ImportResult, SymbolUse

__all__ = ["INPUT_NAMES", "OUTPUT_NAMES", "HostNode", "ImportInfo", "ImportResult", "SymbolUse", "import_onnx"]
