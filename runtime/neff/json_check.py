"""Reading JSON that somebody else wrote: bounded parsing, then a check against a small declarative description.

A description is built from `Text`, `Integer`, `Boolean`, `Number`, `ListOf`, `MapOf`, `Record` and `AnyJson`;
`load_json` returns the plain value once every part of it has the described type and bounds. Whatever does not fit is a
NeuronError NX-NEFF-005 that names the member and the path of the value; sizes and depths beyond `Limits` are
NX-NEFF-010.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from neuron_dialects.errors import NeuronError
from runtime.neff.limits import DEFAULT_LIMITS, Limits

MAX_INTEGER = (1 << 63) - 1

_KINDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Text:
    """A string; one of `choices` if given."""

    choices: tuple[str, ...] = ()
    max_length: int = 65536


@dataclass(frozen=True)
class Integer:
    """An integer (not a boolean, not a float) within bounds, both included."""

    low: int = 0
    high: int = MAX_INTEGER


@dataclass(frozen=True)
class Boolean:
    """True or false."""


@dataclass(frozen=True)
class Number:
    """A finite number, integer or float; an integer within 64 bits."""


@dataclass(frozen=True)
class ListOf:
    """A list whose items fit `item`."""

    item: "Description"
    max_length: int = 1 << 24


@dataclass(frozen=True)
class MapOf:
    """An object with any keys whose values fit `value`."""

    value: "Description"


@dataclass(frozen=True)
class Record:
    """An object with exactly the required keys, and perhaps the optional ones."""

    required: Mapping[str, "Description"]
    optional: Mapping[str, "Description"] = field(default_factory=dict)


@dataclass(frozen=True)
class AnyJson:
    """Any JSON value."""


Description = Text | Integer | Boolean | Number | ListOf | MapOf | Record | AnyJson


def load_json(data: bytes, member: str, description: Description, limits: Limits = DEFAULT_LIMITS) -> Any:
    """The value of a JSON text that fits `description`. `member` is how messages call the text."""
    if len(data) > limits.json_bytes:
        raise NeuronError("NX-NEFF-010", f"{member} has {len(data)} bytes, limit {limits.json_bytes}")
    try:
        text = data.decode("utf-8")
        # Python's parser recurses, and what it raises for deep nesting depends on the stack that happens to be left.
        depth = nesting_depth(text)
        if depth > limits.json_depth:
            raise NeuronError("NX-NEFF-010", f"{member} is nested {depth} deep, limit {limits.json_depth}")
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except ValueError as error:  # malformed UTF-8 and JSON, duplicate keys, NaN, integers of thousands of digits
        raise NeuronError("NX-NEFF-005", f"{member} is not valid JSON: {error}") from None
    check_json(value, description, member)
    return value


def dump_json(value: Any) -> bytes:
    """The one text that we write for plain JSON data: indented, ASCII, keys in their own order, ending in a newline."""
    return (json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def nesting_depth(text: str) -> int:
    """Deepest nesting of brackets and braces outside strings."""
    depth = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def check_json(value: Any, description: Description, path: str) -> None:
    """Raise NX-NEFF-005 with `path` for the first part of `value` that does not fit `description`."""
    match description:
        case Text():
            _check_text(value, description, path)
        case Integer():
            if not isinstance(value, int) or isinstance(value, bool):
                _refuse(path, "an integer", value)
            if not description.low <= value <= description.high:
                raise _malformed(f"{path} is {value}, allowed {description.low} to {description.high}")
        case Boolean():
            if not isinstance(value, bool):
                _refuse(path, "a boolean", value)
        case Number():
            if not isinstance(value, int | float) or isinstance(value, bool):
                _refuse(path, "a number", value)
            if abs(value) > MAX_INTEGER if isinstance(value, int) else not math.isfinite(value):
                raise _malformed(f"{path} is not a finite number of 64 bits")
        case ListOf():
            if not isinstance(value, list):
                _refuse(path, "a list", value)
            if len(value) > description.max_length:
                raise _malformed(f"{path} has {len(value)} items, limit {description.max_length}")
            for position, item in enumerate(value):
                check_json(item, description.item, f"{path}[{position}]")
        case MapOf():
            for key, item in _object(value, path).items():
                _check_text(key, Text(), f"a key of {path}")
                check_json(item, description.value, f"{path}.{key}")
        case Record():
            _check_record(value, description, path)
        case AnyJson():
            _check_strings(value, path)


def _check_record(value: Any, description: Record, path: str) -> None:
    members = _object(value, path)
    known = {**description.required, **description.optional}
    for key in members:
        if key not in known:
            raise _malformed(f"{path} has an unknown key {key[:80]!a}")
    for key, inner in known.items():
        if key in members:
            check_json(members[key], inner, f"{path}.{key}")
        elif key in description.required:
            raise _malformed(f"{path} has no key '{key}'")


def _check_text(value: Any, description: Text, path: str) -> None:
    if not isinstance(value, str):
        _refuse(path, "a string", value)
    if len(value) > description.max_length:
        raise _malformed(f"{path} has {len(value)} characters, limit {description.max_length}")
    if not _is_unicode(value):
        raise _malformed(f"{path} holds half of a surrogate pair")
    if description.choices and value not in description.choices:
        raise _malformed(f"{path} is {value[:80]!a}, must be one of {', '.join(description.choices)}")


def _check_strings(value: Any, path: str) -> None:
    match value:
        case str():
            if not _is_unicode(value):
                raise _malformed(f"{path} holds half of a surrogate pair")
        case list():
            for item in value:
                _check_strings(item, path)
        case dict():
            for key, item in value.items():
                _check_strings(key, path)
                _check_strings(item, path)
        case _:
            pass


def _is_unicode(text: str) -> bool:
    """Whether the text can be encoded, which a lone surrogate (written as an escape in JSON) cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(path, "an object", value)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a key twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(path: str, expected: str, value: Any) -> NoReturn:
    kinds = {
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    raise _malformed(f"{path} must be {expected}, not {kinds.get(type(value), 'null')}")


def _malformed(message: str) -> NeuronError:
    return NeuronError("NX-NEFF-005", message)
