"""How large a model may be: what a file can ask for that no machine would ever finish.

Given a parsed model, `check_size` counts its nodes, those of functions as often as they are called, before anything
walks or copies them. Functions that call each other in a circle, and models beyond the limit, are user errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto

from lowering.onnx_to_graph.node import Unsupported
from neuron_dialects.errors import NeuronError

MAX_NODES = 2**17
"""Most nodes that a model may have, with its functions written out. Unrolled real models have some ten thousand."""

MAX_COMPUTED_ELEMENTS = 2**26
"""Most elements of a matrix, a mask or a list of positions that a converter computes in place of an operator."""


def require_computable(elements: int) -> None:
    """Unsupported where a converter would have to compute more elements than that."""
    if elements > MAX_COMPUTED_ELEMENTS:
        raise Unsupported(f"{elements} elements to be computed at import, limit {MAX_COMPUTED_ELEMENTS}")


_Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


def check_size(model: ModelProto) -> None:
    """NeuronError: NX-ONNX-008 for more than MAX_NODES nodes, NX-ONNX-002 for functions that call themselves."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[_Key, int] = {}
    for key in functions:
        _measure(key, functions, sizes)
    count = _count(model.graph.node, sizes)
    if count > MAX_NODES:
        raise NeuronError(
            "NX-ONNX-008",
            f"the model has {count} nodes, limit {MAX_NODES}",
            help="compile the model in parts, or keep its loops as Loop or Scan" if not functions else None,
        )


def _measure(root: _Key, functions: Mapping[_Key, FunctionProto], sizes: dict[_Key, int]) -> None:
    """Fill in the sizes of a function and of all that it calls, callees first; no recursion, however long the chain."""
    open_calls: dict[_Key, list[_Key]] = {}
    pending = [root]
    while pending:
        key = pending[-1]
        if key in sizes:
            pending.pop()
            continue
        if key not in open_calls:
            open_calls[key] = [called for called in _called(functions[key].node) if called in functions]
        waiting = [called for called in open_calls[key] if called not in sizes]
        if not waiting:
            sizes[key] = _count(functions[key].node, sizes)
            open_calls.pop(key)
            pending.pop()
        elif waiting[-1] in open_calls:
            raise NeuronError("NX-ONNX-002", f"function '{waiting[-1][1]}' calls itself")
        else:
            pending.append(waiting[-1])


def _called(nodes: Iterable[NodeProto]) -> list[_Key]:
    """What nodes, and the nodes of their subgraphs, may call."""
    return list(dict.fromkeys((node.domain, node.op_type, node.overload) for node in _all(nodes)))


def _count(nodes: Iterable[NodeProto], sizes: Mapping[_Key, int]) -> int:
    """Nodes, those of subgraphs included, with calls written out."""
    return sum(sizes.get((node.domain, node.op_type, node.overload), 1) for node in _all(nodes))


def _all(nodes: Iterable[NodeProto]) -> Iterable[NodeProto]:
    """Nodes and those inside them; protobuf bounds how deep subgraphs nest."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _all(attribute.g.node)
            for graph in attribute.graphs:
                yield from _all(graph.node)
