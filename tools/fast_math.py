"""neuron-cc's own spellings of number formats, `--fast-math` and `--fp32-cast`, as `--auto-cast` and its type.

Command lines and framework settings written for neuron-cc keep working. `fast-relayout` and `no-fast-relayout` are
accepted and change nothing: which engine rearranges a tensor is the compiler's decision here.
"""

from __future__ import annotations

from neuron_dialects.errors import NeuronError

AutoCast = tuple[str, str]
"""Values of `--auto-cast` and `--auto-cast-type`."""

FP32_CASTS: dict[str, AutoCast] = {
    "all": ("all", "bf16"),
    "all-fp16": ("all", "fp16"),
    "matmult": ("matmult", "bf16"),
    "matmult-bf16": ("matmult", "bf16"),
    "matmult-fp16": ("matmult", "fp16"),
}
"""Value of `--fp32-cast` -> what it means. `--fast-math` spells them with `fp32-cast-` in front."""

_ALONE = {"all": FP32_CASTS["all"], "none": FP32_CASTS["matmult-bf16"]}
"""Options of `--fast-math` that stand for a cast and a relayout and exclude every other option."""
_RELAYOUTS = ("fast-relayout", "no-fast-relayout")
_PREFIX = "fp32-cast-"


def auto_cast_of(fast_math: str | None, fp32_cast: str | None) -> AutoCast | None:
    """What the two options mean together, None when neither names a cast. `--fp32-cast` wins over `--fast-math`.

    NeuronError NX-ARG-001 for an unknown option, NX-ARG-002 for options that exclude each other.
    """
    from_fast_math = _fast_math(fast_math) if fast_math is not None else None
    if fp32_cast is None:
        return from_fast_math
    if fp32_cast not in FP32_CASTS:
        raise NeuronError("NX-ARG-001", f"--fp32-cast {fp32_cast}: choose one of {', '.join(FP32_CASTS)}")
    return FP32_CASTS[fp32_cast]


def _fast_math(text: str) -> AutoCast | None:
    """The cast that a list of options, separated by commas or blanks, asks for."""
    options = text.replace(",", " ").split()
    known = (*_ALONE, *_RELAYOUTS, *(_PREFIX + name for name in FP32_CASTS))
    unknown = [option for option in options if option not in known]
    if unknown or not options:
        raise NeuronError("NX-ARG-001", f"--fast-math {' '.join(unknown)}: choose among {', '.join(known)}")
    alone = [option for option in options if option in _ALONE]
    if alone and len(options) > 1:
        raise NeuronError("NX-ARG-002", f"--fast-math {text}: {alone[0]} excludes every other option")
    if alone:
        return _ALONE[alone[0]]
    for group in (_RELAYOUTS, tuple(_PREFIX + name for name in FP32_CASTS)):
        given = [option for option in options if option in group]
        if len(given) > 1:
            raise NeuronError("NX-ARG-002", f"--fast-math {text}: {given[0]} and {given[1]} exclude each other")
    casts = [option.removeprefix(_PREFIX) for option in options if option not in _RELAYOUTS]
    return FP32_CASTS[casts[0]] if casts else None
