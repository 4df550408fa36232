"""Every error code has an entry with cause and cure, and the examples get the very code that they are examples of."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import onnx
import pytest

from neuron_dialects.errors import ERROR_CODES, NeuronError
from tests.run_lines import commands
from tools.error_pages import Explanation, explanations
from tools.in_process import run_in_process
from tools.neuron_opt import run_in_process as neuron_opt

EXAMPLES = [entry for entry in explanations().values() if entry.command or entry.python]
WITHOUT_EXAMPLE = 22
"""At most so many codes may go without an example: new ones should have one."""


# A code without an entry, or an entry of a code that is gone: write or remove it in tools/error_pages.
def test_codes_and_entries_agree():
    assert sorted(explanations()) == sorted(ERROR_CODES)


def test_entries_say_something():
    for entry in explanations().values():
        assert entry.cause.endswith(".") and entry.cure.rstrip().endswith("."), entry.code
        assert not (entry.files and entry not in EXAMPLES), entry.code
    assert len(explanations()) - len(EXAMPLES) <= WITHOUT_EXAMPLE


def write_files(entry: Explanation, folder: Path) -> None:
    for name, text in entry.files.items():
        if name.endswith(".onnx") and text.startswith("<"):
            model = onnx.parser.parse_model(text)
            (folder / name).write_bytes(model.SerializeToString())
        else:
            (folder / name).write_text(text)


def main_of(tool: str) -> Callable[[Sequence[str]], int | None]:
    module, _, function = commands()[tool].partition(":")
    return getattr(import_module(module), function)


@pytest.mark.parametrize("entry", EXAMPLES, ids=lambda entry: entry.code)
def test_examples(entry: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(entry, tmp_path)
    monkeypatch.chdir(tmp_path)
    if entry.command is not None:
        tool, *arguments = shlex.split(entry.command)
        done = run_in_process(main_of(tool), arguments)
        assert done.exit_code == 1
        assert f"error[{entry.code}]: " in done.stderr, done.stderr
    else:
        assert entry.python is not None
        path = tmp_path / "data"
        path.write_bytes(bytes(8))
        with pytest.raises(NeuronError) as caught:
            exec(entry.python, {"path": path})
        assert caught.value.code == entry.code


def test_explain():
    shown = neuron_opt(["--explain", "nx-ir-001"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith("NX-IR-001: textual IR cannot be parsed or does not verify\n\n")
    assert "    $ neuron-opt net.mlir\n" in shown.stdout
    unknown = neuron_opt(["--explain", "NX-NONE-001"])
    assert unknown.exit_code == 1 and unknown.stderr.startswith("error[NX-ARG-001]: --explain NX-NONE-001: ")
