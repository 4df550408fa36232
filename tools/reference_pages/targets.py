"""The page of the targets: every figure with its value, where it is from, and a note."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import neuron_dialects.target
from neuron_dialects.target import SOURCES, Figure, Instance, Target, load_target, target_names
from tools.reference_pages.markdown import code, docstring, escaped, page, table


def targets_page() -> str:
    """The page of the targets."""
    targets = [load_target(name) for name in target_names()]
    return page(
        "Targets",
        docstring(neuron_dialects.target),
        "Sizes are in bytes, clocks in GHz, rates in bytes per nanosecond, times in nanoseconds. **Assumed** figures"
        " are choices of this toolkit where nothing is published; whatever a report derives from them is labelled.",
        "## Comparison",
        "An asterisk marks what is assumed.",
        table(
            ("figure", *(f"`{target.name}`" for target in targets)),
            ((code(name), *(_value(target.figures.get(name)) for target in targets)) for name in _names(targets)),
        ),
        "## Instances",
        table(
            ("instance", "target", "chips", "cores", "vCPUs", "host memory", "device memory"),
            (_instance(row, target) for target in targets for row in target.instances.values()),
        ),
        *_sections(targets),
    )


def _instance(row: Instance, target: Target) -> tuple[str, ...]:
    cores = row.chips * int(target.cores_per_chip)
    numbers = (f"{row.chips}", f"{cores}", f"{row.vcpus}")
    return code(row.name), code(target.name), *numbers, _gib(row.host_bytes), _gib(cores * int(target.dram_bytes))


def _gib(size_bytes: int) -> str:
    return f"{size_bytes >> 30:,} GiB"


def _names(targets: list[Target]) -> list[str]:
    return list(dict.fromkeys(name for target in targets for name in target.figures))


def _value(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return _text(figure.value) + (" \\*" if figure.source == "assumed" else "")


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value)) or "none"
        case dict():
            return ", ".join(f"{key}: {item}" for key, item in value.items())
        case int():
            return f"{value:,}"
        case _:
            return str(value)


def _sections(targets: list[Target]) -> Iterator[str]:
    described: list[Target] = []
    for target in targets:
        counts = Counter(figure.source for figure in target.figures.values())
        sources = ", ".join(f"{counts[source]} {source}" for source in SOURCES)
        yield f"## {code(target.name)}"
        same = next((other for other in described if other.figures == target.figures), None)
        if same is not None:
            yield f"NeuronCore-v{target.generation}, with all figures of {code(same.name)}."
            continue
        described.append(target)
        yield f"NeuronCore-v{target.generation}; {len(target.figures)} figures: {sources}."
        yield table(
            ("figure", "value", "source", "note"),
            (
                (code(name), _text(figure.value), _source(figure.source), escaped(figure.note))
                for name, figure in target.figures.items()
            ),
        )


def _source(source: str) -> str:
    return f"**{source}**" if source == "assumed" else source
