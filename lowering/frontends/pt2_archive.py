"""The parts of a `.pt2` archive that are safe to load, as a new archive.

`torch.export.load` unpickles members of the file, evaluates expressions that it holds, and turns its names into Python
code. A model file comes from outside, so `checked_archive` is given the user's file and leaves a copy that holds only
the serialized graph, its weights and its constants as raw bytes, after checking every string of the graph. What would
have to be unpickled is refused; sample inputs, guards and source locations are dropped: compiling needs none of them.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO, Any

from neuron_dialects.errors import NeuronError

MAX_ARCHIVE_BYTES = 64 << 30
"""Largest archive that is read."""
MAX_GRAPH_BYTES = 1 << 28
"""Largest JSON member: a graph of about a million nodes."""
MAX_MEMBERS = 1 << 20
MAX_TENSOR_ELEMENTS = 1 << 34
GRAPH = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
CONFIGS = (f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json")
_PLAIN_MEMBERS = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
_PAYLOAD = re.compile(r"(data/weights/weight_\d+|data/constants/tensor_\d+)\Z")

_NAME = re.compile(r"[\w.+@-]*\Z", re.ASCII)
"""What any string of the graph may be made of: no call, subscript, quote or line break can be written with it."""
_OPERATOR = re.compile(
    r"(torch\.ops\.(aten|prims|higher_order)\.[a-zA-Z_]\w*(\.\w+)?|torch\.sym_\w+|math\.[a-z]\w*"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_))\Z",
    re.ASCII,
)
_FILE_OPERATORS = ("torch.ops.aten.from_file",)
"""Operators that open files."""
_SYMBOL = re.compile(r"[suz]\d+\Z", re.ASCII)
_FUNCTIONS = frozenset(
    """Symbol Integer Rational Float Add Mul Pow Mod PythonMod Max Min Abs Identity Where FloorDiv CleanDiv CeilDiv
    ModularIndexing PowByNatural IntTrueDiv FloatTrueDiv ToFloat TruncToInt CeilToInt FloorToInt RoundToInt ceiling
    floor sqrt Eq Ne Gt Lt Ge Le Equality Unequality StrictGreaterThan StrictLessThan GreaterThan LessThan And Or
    Not""".split()
)
"""What may be called in an expression of symbolic sizes."""
_CONSTANTS = frozenset(("oo", "int_oo", "true", "false"))
_ARITHMETIC = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
_MAX_EXPRESSION_CHARACTERS, _MAX_POWERS, _MAX_NUMBER = 2000, 4, 1 << 63
"""Limits of an expression: nested powers could write a number that no memory holds."""
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_MODULE_STACK = "nn_module_stack"
_MODULE_TEXT = re.compile(r"[\w.,;:@\[\]()'/ <>+-]*\Z", re.ASCII)


def checked_archive(path: Path, output: IO[bytes]) -> None:
    """Copy what is safe of the archive at `path` to `output`.

    NeuronError NX-FRAME-002 when the file is no such archive, or holds something that is not safe to load.
    """
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as copy:
            members = _members(archive)
            if GRAPH not in members:
                raise _refusal(f"it has no {GRAPH}", help="write it by torch.export.save(program, 'model.pt2')")
            for name, info in members.items():
                target = zipfile.ZipInfo(f"model/{name}")
                if name == SAMPLE_INPUTS:
                    copy.writestr(target, b"")
                elif name == GRAPH:
                    copy.writestr(target, json.dumps(_checked_graph(_json(archive, info))))
                elif name in CONFIGS:
                    copy.writestr(target, json.dumps(_checked_config(_json(archive, info), name, members)))
                else:
                    target.file_size = info.file_size
                    with archive.open(info) as source, copy.open(target, "w", force_zip64=True) as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
    # NotImplementedError is what zipfile raises for a way of compressing that it does not know.
    except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError) as error:
        raise _refusal(f"it is not a readable archive: {error}") from error
    except RecursionError as error:
        raise _refusal("its graph is nested too deeply") from error


def _refusal(why: str, help: str | None = None) -> NeuronError:
    return NeuronError("NX-FRAME-002", f"the PyTorch file is not loaded: {why}", help=help)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by name below the archive's one top folder; refuses compressed ones and those that we do not know."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > MAX_ARCHIVE_BYTES:
        raise _refusal(f"it has more than {MAX_MEMBERS} members or {MAX_ARCHIVE_BYTES} bytes")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.partition("/")[2]
        if name in members:
            raise _refusal(f"it has two members '{name}'")
        if info.compress_type != zipfile.ZIP_STORED:
            raise _refusal(f"member '{name}' is compressed, which torch.export.save never does")
        if not (name in (GRAPH, SAMPLE_INPUTS, *CONFIGS, *_PLAIN_MEMBERS) or _PAYLOAD.match(name)):
            raise _refusal(
                f"member '{name}' is none of a graph's, its weights' or its constants' that can be read without pickle",
                help="save a program without custom objects, by the pinned version of torch",
            )
        members[name] = info
    return members


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    if info.file_size > MAX_GRAPH_BYTES:
        raise _refusal(f"'{info.filename}' has {info.file_size} bytes, limit {MAX_GRAPH_BYTES}")
    try:
        return json.loads(archive.read(info))
    except ValueError as error:
        raise _refusal(f"'{info.filename}' is not JSON: {error}") from error


def _checked_config(config: Any, name: str, members: dict[str, zipfile.ZipInfo]) -> Any:
    """The list of tensors in raw bytes, every one inside its member."""
    folder = WEIGHTS if name == CONFIGS[0] else CONSTANTS
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise _refusal(f"'{name}' lists no tensors")
    for key, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise _refusal(f"tensor '{key}' is pickled", help="save dense CPU tensors by the pinned version of torch")
        payload = members.get(f"{folder}{entry.get('path_name')}")
        meta = entry.get("tensor_meta")
        sizes: list[Any] = [size.get("as_int") for size in meta.get("sizes", [])] if isinstance(meta, dict) else [None]
        if payload is None or not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise _refusal(f"tensor '{key}' has no data, or no fixed shape")
        if prod(sizes) > (MAX_TENSOR_ELEMENTS if payload.file_size else 0):
            raise _refusal(f"tensor '{key}' has {prod(sizes)} elements, its data {payload.file_size} bytes")
    _check_strings(config)
    return config


def _checked_graph(graph: Any) -> Any:
    """The graph without what compiling does not need, every string of it checked."""
    if not isinstance(graph, dict):
        raise _refusal("its graph is no JSON object")
    graph["guards_code"] = []
    _check_strings(graph)
    return graph


def _check_strings(root: Any) -> None:
    """Check every key and string below a JSON value, each by the rule of the key that it stands under."""
    work: list[tuple[str, Any]] = [("", root)]
    while work:
        key, value = work.pop()
        if isinstance(value, str):
            _RULES.get(key, _check_name)(value)
        elif isinstance(value, list):
            work += [(key, item) for item in value]
        elif isinstance(value, dict):
            if key == "metadata":
                _keep_module_stack(value)
            for name, item in value.items():
                _check_name(name)
                work.append((name, item))


def _keep_module_stack(metadata: dict[str, Any]) -> None:
    """Drop what a node says of its source, except for the modules that it is in, which name our operations."""
    stack = metadata.get(_MODULE_STACK)
    metadata.clear()
    if isinstance(stack, str) and _MODULE_TEXT.match(stack):
        metadata[_MODULE_STACK] = stack


def _check_name(text: str) -> None:
    if not _NAME.match(text):
        raise _refusal(f"a name in its graph is {_shown(text)}")


def _check_operator(text: str) -> None:
    """Operators of torch that compute: nothing else is looked up."""
    if not _OPERATOR.match(text) or text.startswith(_FILE_OPERATORS):
        raise _refusal(f"it calls {_shown(text)}", help="only operators of torch's own aten library are converted")


def _check_expression(text: str) -> None:
    """Integer arithmetic on symbolic sizes, as sympy's constructors or operators; torch evaluates the text."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval"))) if len(text) <= _MAX_EXPRESSION_CHARACTERS else []
    except (SyntaxError, ValueError, MemoryError):
        nodes = []
    powers = sum(isinstance(node, ast.Pow) or (isinstance(node, ast.Name) and "Pow" in node.id) for node in nodes)
    if not nodes or powers > _MAX_POWERS or not all(map(_is_arithmetic, nodes)):
        raise _refusal(f"a symbolic size is {_shown(text)}")


def _is_arithmetic(node: ast.AST) -> bool:
    """Whether a part of an expression is arithmetic: calls of known functions, symbols, numbers and operators."""
    match node:
        case ast.Call(func=function):
            return isinstance(function, ast.Name) and function.id in _FUNCTIONS
        case ast.Name(id=name):
            return name in _FUNCTIONS or name in _CONSTANTS or bool(_SYMBOL.match(name))
        case ast.Constant(value=str(text)):
            return bool(_SYMBOL.match(text)) or bool(re.fullmatch(r"-?\d{1,20}(\.\d{0,20})?", text, re.ASCII))
        case ast.Constant(value=value):
            return isinstance(value, int | float) and abs(value) < _MAX_NUMBER
        case _:
            return isinstance(node, _ARITHMETIC)


def _check_tree(text: str) -> None:
    """Python containers that arguments come in, as JSON in a string: built-in ones only."""
    try:
        work: list[Any] = [json.loads(text)[1]]
        while work:
            spec = work.pop()
            if spec["type"] not in _CONTAINERS or not re.fullmatch(r"[^{}()]*", str(spec["context"])):
                raise _refusal(f"its arguments or results are in a {_shown(str(spec['type']))}", _TREE_HELP)
            work += spec["children_spec"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise _refusal("the structure of its arguments is malformed") from error


_TREE_HELP = "export a module that takes and returns tensors in tuples, lists or dicts"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _any_text(_: str) -> None:
    """A string argument of an operator stays a string."""


_RULES: dict[str, Callable[[str], None]] = {
    "target": _check_operator,
    "expr_str": _check_expression,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
    "as_string": _any_text,
    _MODULE_STACK: _any_text,
}
"""Key of the graph -> what a string under it must be; `_check_name` for all others."""
