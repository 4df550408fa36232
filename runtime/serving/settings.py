"""Environment variables of the runtime: their names, their documented meanings, and reading them.

`read_settings` takes a mapping of names to texts (the process's environment, by default) and leaves a `Settings`; a
text that cannot be read is NRT_INVALID with the variable's name. Variables that it does not know are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.serving.status import NrtError, Status

MAX_CORE = 4095
"""Largest core index that a setting may name."""


@dataclass(frozen=True)
class GroupSize:
    """One NeuronCore Group: `cores`, and into how many instances of one model they are split; None: as many as fit."""

    cores: int
    instances: int | None = None


@dataclass(frozen=True)
class Settings:
    """What the environment asks for, with the documented defaults.

    `visible_cores`: these cores, contiguous and ascending; else `core_count` free ones (0: all that the groups ask for,
    or all). `groups`: sizes of the groups, in order; empty for none. `exec_timeout_s`: simulated seconds of one
    inference, None: any. `async_limit`: requests that may be outstanding through futures (0: the load's queue limit).
    `max_inferences`: requests inside of one instance of a model (0: its stages + 3).
    """

    visible_cores: range | None = None
    core_count: int = 0
    groups: tuple[GroupSize, ...] = ()
    exec_timeout_s: float | None = None
    shared_weights: bool = False
    async_limit: int = 0
    max_inferences: int = 0
    fail_on_nan: bool = False
    tag: str = ""


@dataclass(frozen=True)
class Variable:
    """An environment variable: the field of `Settings` that it sets, what it means, and the function that reads it."""

    field: str
    meaning: str
    read: Callable[[str], Any]


def _whole(text: str, low: int = 0, high: int = MAX_CORE) -> int:
    """A decimal number; no signs, blanks or underscores, which `int` would take."""
    if not (text.isascii() and text.isdigit()) or not low <= int(text[:12]) <= high:
        raise ValueError(f"a whole number from {low} to {high}")
    return int(text)


def _cores(text: str) -> range:
    """`2`, `0,1,2` or `4-7`, also mixed: contiguous and ascending."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = _whole(first)
        numbers += range(start, _whole(last) + 1) if dash else [start]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError("core indices that are contiguous and ascending, like 2 or 0,1,2 or 4-7")
    return range(numbers[0], numbers[0] + len(numbers))


def _groups(text: str) -> tuple[GroupSize, ...]:
    """`2,4,3`: groups of 2, 4 and 3 cores; `4x1`: one of 4 cores with 4 instances of a 1-core model."""
    groups: list[GroupSize] = []
    for part in text.split(","):
        first, cross, second = part.partition("x")
        if cross:
            instances, size = _whole(first, 1), _whole(second, 1)
            groups.append(GroupSize(instances * size, instances))
        else:
            groups.append(GroupSize(_whole(first, 1)))
    return tuple(groups)


def _switch(text: str) -> bool:
    values = {"0": False, "false": False, "1": True, "true": True}
    if text.lower() not in values:
        raise ValueError("0, 1, false or true")
    return values[text.lower()]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError("a positive number of seconds")
    return value


VARIABLES: dict[str, Variable] = {
    "NEURON_RT_VISIBLE_CORES": Variable(
        "visible_cores",
        "exactly these cores of the instance: one index, a list or an inclusive range, contiguous and ascending;"
        " NEURON_RT_NUM_CORES then counts for nothing",
        _cores,
    ),
    "NEURON_RT_NUM_CORES": Variable(
        "core_count", "that many cores, the first free ones that lie side by side; 0, the default: all", _whole
    ),
    "NEURONCORE_GROUP_SIZES": Variable(
        "groups",
        "NeuronCore Groups: `2,4,3` makes three of 2, 4 and 3 consecutive cores, `4x1` one of 4 cores that holds a"
        " 1-core model four times. Loads go to the groups in turn",
        _groups,
    ),
    "NEURON_RT_EXEC_TIMEOUT": Variable(
        "exec_timeout_s", "simulated seconds that one inference may take on its cores; by default any number", _seconds
    ),
    "NEURON_RT_MULTI_INSTANCE_SHARED_WEIGHTS": Variable(
        "shared_weights", "instances of a model on one chip share one copy of the weights; off by default", _switch
    ),
    "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": Variable(
        "async_limit",
        "requests of a model that may be outstanding through futures and asyncio; 0, the default: only the queue limit"
        " of the load counts",
        _whole,
    ),
    "NEURON_MAX_NUM_INFERS": Variable(
        "max_inferences",
        "requests that one instance of a model works on or holds ready at a time; by default its stages + 3, a model"
        " without a pipeline being one stage",
        _whole,
    ),
    "NEURON_FAIL_ON_NAN": Variable(
        "fail_on_nan",
        "a NaN in an output ends the request with NRT_EXEC_COMPLETED_WITH_NUM_ERR; off by default",
        _switch,
    ),
    "NEURON_PROCESS_TAG": Variable("tag", "name of the runtime in reports", str),
}
"""Every variable that the runtime obeys."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings that an environment asks for; NRT_INVALID for a text that cannot be read."""
    values: dict[str, Any] = {}
    for name, variable in VARIABLES.items():
        text = environment.get(name, "").strip()
        if text:
            try:
                values[variable.field] = variable.read(text)
            except ValueError as error:
                raise NrtError(Status.NRT_INVALID, f"{name} is '{text[:80]}', must be {error}") from None
    return Settings(**values)
