"""Texts that mean harm or nothing: each is refused with a code before anything is written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from neuron_dialects.errors import NeuronError
from runtime.assembly import assemble, assembled_model
from runtime.neff import neff_bytes, read_neff

KERNELS = Path(__file__).parents[3] / "examples" / "kernels"
HEAD = ".target trn1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('.variable "\\ud800" input f32 [4]\n', "surrogate"),
        ('.model "\\ud800"\n', "surrogate"),
        ('.queue pe\nhalt loc("\\ud800")\n', "surrogate"),
        (".macs 99999999999999999999\n", "not a number from 0 to"),
        ('.variable 99999999999 "x" input f32 [4]\n', "out of range"),
        ('.variable "x" input f32 [-4]\n', "dimensions of 0 to"),
        ('.variable "x" input f99 [4]\n', "unknown element type"),
        ('.variable "x" file f32 [4] "../../etc"\n', "not a plain relative path"),
        (".queue pe\nhalt loc(7)\n", "origin 7, the program has 1"),
        (".queue sp\nreg_move r0, 99999999999999999999\n", "cannot be encoded"),
        (".queue sp\nreg_move r99999, 0\n", "register 99999"),
    ],
)
def test_numbers_and_names_out_of_bounds(text: str, message: str) -> None:
    with pytest.raises(NeuronError, match=message):
        neff_bytes(assembled_model(assemble(HEAD + text), parameters={}))


_PIECES = (
    "-1", "99999999999999999999", '"\\ud800"', "[", "]", "{", "}", ",", ":", ";", "@x", "r99999", "r0 + 1",
    "psum", "dram", "wait(", "loc(99999)", ".queue pe", ".subgraph x", "\\", "\t", "é", "\x00", "step 0", "i64",
)  # fmt: skip


# A kernel with a few random edits is either a program that can be written and read, or it is refused.
def test_random_edits() -> None:
    random_numbers = random.Random(1)
    text = (KERNELS / "matmul.nasm").read_text(encoding="utf-8")
    accepted = 0
    for _ in range(60):
        edited = text
        for _ in range(random_numbers.randint(1, 2)):
            start = random_numbers.randrange(len(edited))
            end = start + random_numbers.choice((0, 1, 3, 8))
            edited = edited[:start] + random_numbers.choice(_PIECES) + edited[end:]
        try:
            assert read_neff(neff_bytes(assembled_model(assemble(edited)))).target == "trn1"
            accepted += 1
        except NeuronError:
            continue
    assert accepted > 0
