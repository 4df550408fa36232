"""Where the models come from: full-size files beside the clone, whose weights a script fills, and generated ones.

Everything is made once in a cache folder and is the same on every machine. `prepare` leaves behind the path of an ONNX
file and of its inputs. A model that is not there raises `Missing`, which the table shows instead of figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.batching import Unbatched, compare_batch, samples, set_batch
from benchmarks.cases import FULL_SIZE, Model

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto

ROOT = Path(__file__).resolve().parents[1]
MODELS_VARIABLE, CACHE_VARIABLE = "NEURON_BENCH_MODELS", "NEURON_BENCH_CACHE"
"""Environment: the folder of the full-size models, and the one that filled and generated models are kept in."""
Array = np.ndarray[Any, np.dtype[Any]]


class Missing(Exception):
    """A model is not there; the message says where it was looked for."""


def models_folder() -> Path:
    """The folder of the full-size models."""
    return Path(os.environ.get(MODELS_VARIABLE) or ROOT.parent / "shared" / "models" / "full")


def cache_folder() -> Path:
    """The folder of models that were filled or generated, outside of the clone."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuron-toolkit" / "benchmarks"
    return Path(os.environ.get(CACHE_VARIABLE) or default)


def prepare(model: Model, batch: int, cache: Path) -> tuple[Path, Path]:
    """(ONNX file, inputs .npz) of a model at a batch; `Missing` when it is not there or has no such batch."""
    cache.mkdir(parents=True, exist_ok=True)
    path, inputs = (cache / f"{model.name}-b{batch}{suffix}" for suffix in (".onnx", ".npz"))
    if path.is_file() and inputs.is_file():
        return path, inputs
    arrays = _full(model, batch, path) if model.source == FULL_SIZE else GENERATORS[model.source](model.name, path)
    np.savez(inputs, allow_pickle=False, **arrays)
    return path, inputs


def _full(model: Model, batch: int, path: Path) -> dict[str, Array]:
    """A full-size model: weights filled into the cache, its batch set and compared; gives the inputs."""
    name, axis = model.name, model.batch_axis
    folder, script = models_folder(), models_folder() / "fill_weights.py"
    if not (folder / f"{name}.onnx").is_file() or not script.is_file():
        raise Missing(f"no {name}.onnx in {folder} (set {MODELS_VARIABLE})")
    if not (path.parent / f"{name}.weights").is_file():
        subprocess.run([sys.executable, str(script), name, "--out", str(path.parent)], check=True, capture_output=True)
    with np.load(folder / f"{name}.inputs.npz", allow_pickle=False) as data:
        inputs = {key: samples(data[key], batch, axis) for key in data.files}
    single = path.parent / f"{name}.onnx"
    if batch == 1:
        path.write_bytes(single.read_bytes())
        return inputs
    try:
        set_batch(single, path, batch, axis)
        compare_batch(single, path, inputs, axis)
    except Unbatched as error:
        path.unlink(missing_ok=True)
        raise Missing(str(error)) from error
    return inputs


def square_matmul(name: str, path: Path) -> dict[str, Array]:
    """`matmulN`: C = A . B of N x N matrices in bf16, both given as inputs; `matmulN_at`: A is given transposed."""
    import onnx
    from ml_dtypes import bfloat16
    from onnx import TensorProto, helper

    size = int(name.removeprefix("matmul").removesuffix("_at"))
    shape, kind = [size, size], TensorProto.BFLOAT16
    operands = ["a", "b"]
    product = helper.make_node("MatMul", operands, ["c"], name="matmul")
    if name.endswith("_at"):
        product = helper.make_node("Gemm", operands, ["c"], name="matmul", transA=1)
    graph = helper.make_graph(
        [product],
        "square_matmul",
        [helper.make_tensor_value_info(operand, kind, shape) for operand in "ab"],
        [helper.make_tensor_value_info("c", kind, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    rng = np.random.default_rng(size)
    # Stored in 32 bits, for .npz files have no bf16; the boundary rounds them back without a change.
    return {n: rng.standard_normal(shape).astype(bfloat16).astype(np.float32) for n in "ab"}


def causal_attention(name: str, path: Path) -> dict[str, Array]:
    """`attentionN`: causal attention over N tokens, one head of 128 features."""
    import onnx
    from onnx import TensorProto, helper

    shape = [1, 1, int(name.removeprefix("attention")), 128]
    graph = helper.make_graph(
        [helper.make_node("Attention", ["q", "k", "v"], ["y"], name="attention", is_causal=1)],
        "causal_attention",
        [helper.make_tensor_value_info(operand, TensorProto.FLOAT, shape) for operand in "qkv"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), str(path))
    rng = np.random.default_rng(0)
    return {operand: rng.standard_normal(shape, dtype=np.float32) for operand in "qkv"}


def decoder(name: str, path: Path) -> dict[str, Array]:
    """`decoderL`: L equal layers like GPT-2's, 128 tokens of 768 features, with weights of their own."""
    from onnx import TensorProto, helper

    from benchmarks.decoder import decoder_nodes

    layers = int(name.removeprefix("decoder"))
    nodes, weights = decoder_nodes(layers)
    shape = [1, 128, 768]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in (0, layers)]
    _save_layers(name, nodes, weights, ends, path)
    return {"x0": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def encoder(name: str, path: Path) -> dict[str, Array]:
    """`encoderL`: L layers of BERT's large size, 128 words of 1024 features, with weights of their own."""
    from onnx import TensorProto, helper

    from benchmarks.encoder import TOKENS, WIDTH, WORDS, encoder_nodes

    layers = int(name.removeprefix("encoder"))
    nodes, weights = encoder_nodes(layers)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, [1, TOKENS])
    result = helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, [1, TOKENS, WIDTH])
    _save_layers(name, nodes, weights, [ids, result], path)
    return {"ids": np.random.default_rng(0).integers(0, WORDS, (1, TOKENS), np.int32)}


def _save_layers(
    name: str, nodes: list[NodeProto], weights: dict[str, Array], ends: list[ValueInfoProto], path: Path
) -> None:
    """Write a model whose weights lie in a file beside it."""
    import onnx
    from onnx import helper, numpy_helper

    initializers = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    location = f"{path.stem}.weights"
    path.with_suffix(".weights").unlink(missing_ok=True)
    onnx.save(model, str(path), save_as_external_data=True, location=location, size_threshold=1024)


GENERATORS: dict[str, Callable[[str, Path], dict[str, Array]]] = {
    "square_matmul": square_matmul,
    "causal_attention": causal_attention,
    "decoder": decoder,
    "encoder": encoder,
}
"""Name of a source -> what writes the model of a name to a file and gives its inputs."""
