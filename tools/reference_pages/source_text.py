"""What the source text says that Python does not keep: messages of checks, docstrings of constants and fields."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import FunctionType, ModuleType
from typing import Any

_REFUSING = ("ShapeError", "VerifyException")
_GUARDS = ("_require",)
"""Functions of a condition and of the message for when it does not hold."""


def refusals(check: Callable[..., Any], package: str) -> list[str]:
    """The messages with which a check refuses something, in order; figures are names as code, or `…`.

    Messages of the functions of `package` that it calls come with it.
    """
    messages: dict[str, None] = {}
    for function in _called(inspect.unwrap(check), package):
        messages.update(dict.fromkeys(_messages(function)))
    return list(messages)


def _called(check: Callable[..., Any], package: str) -> list[FunctionType]:
    """The check, and every function or method of the package that it calls, directly or through others."""
    found: dict[FunctionType, None] = {}
    pending = [check]
    while pending:
        function = pending.pop(0)
        if not isinstance(function, FunctionType) or function in found or not function.__module__.startswith(package):
            continue
        found[function] = None
        owner = function.__globals__.get(function.__qualname__.partition(".")[0])
        methods = vars(owner) if isinstance(owner, type) else {}
        pending += [function.__globals__.get(name, methods.get(name)) for name in function.__code__.co_names]
    return list(found)


def _messages(function: FunctionType) -> Iterator[str]:
    if function.__name__ in _GUARDS:
        return
    for node in ast.walk(ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=[message, *_])) if name in _REFUSING:
                yield from _template(message)
            case ast.Call(func=ast.Name(id=name), args=[_, message]) if name in _GUARDS:
                yield from _template(message)
            case _:
                pass


def _template(message: ast.expr) -> Iterator[str]:
    """The text of a string or f-string; nothing for a message that is computed elsewhere."""
    match message:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else _figure(part) for part in parts)
        case _:
            return


def _figure(part: ast.expr) -> str:
    """What stands for a figure of a message: its name where it has one."""
    value = part.value if isinstance(part, ast.FormattedValue) else part
    if isinstance(value, ast.Call) and len(value.args) == 1 and not value.keywords:
        # A shape or a list, made readable: the name of what is shown.
        is_shown = isinstance(value.func, ast.Name) and value.func.id in ("text", "list")
        value = value.args[0] if is_shown else value
    return f"`{value.id}`" if isinstance(value, ast.Name) else "…"


def field_docstrings(documented: type | ModuleType) -> dict[str, str]:
    """The string that stands behind each assignment of a class or module, by the assigned name."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(documented)))
    body = tree.body[0].body if isinstance(documented, type) and isinstance(tree.body[0], ast.ClassDef) else tree.body
    found: dict[str, str] = {}
    for statement, following in pairwise(body):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
            case _:
                pass
    return found
