"""The pages that show commands and IR show what the tools print, and the runner that checks them notices when not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.tutorial.make_model import INPUTS, MODEL, two_layers, values
from tests.tutorial_runner import PAGES, QUOTING_PAGES, PageError, blocks_of, differences, prepare, updated

_SPAN = re.compile(r"`([^`]+)`")
_QUOTES_OUTPUT = re.compile(r"[%#@]|>=|\d(x|, ?)\d")
"""What a code span of the prose holds when it quotes a program rather than naming a file, a pass or an option."""


def page_ids(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_every_block_is_what_the_tools_print(page: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    stale = list(differences(page.read_text(encoding="utf-8"), tmp_path))
    help_ = "refresh with: python -m tests.tutorial_runner --update, and read the prose around the blocks again"
    assert [(d.line, d.real) for d in stale] == [(d.line, d.shown) for d in stale], help_


# Prose that quotes a program must quote what stands in a block, so that it cannot go stale unnoticed.
@pytest.mark.parametrize("page", QUOTING_PAGES, ids=page_ids)
def test_prose_quotes_what_the_blocks_show(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    in_block = {i for block in blocks_of(lines) for i in range(block.first - 1, block.last + 1)}
    shown = "\n".join(line for i, line in enumerate(lines) if i in in_block)
    prose = "\n".join(line for i, line in enumerate(lines) if i not in in_block)
    quotes = [span for span in _SPAN.findall(prose) if _QUOTES_OUTPUT.search(span)]
    assert quotes
    assert [span for span in quotes if span not in shown] == []


def test_the_shipped_files_are_what_the_script_makes() -> None:
    assert MODEL.read_bytes() == two_layers().SerializeToString(deterministic=True)
    with np.load(INPUTS) as inputs:
        np.testing.assert_array_equal(inputs["x"], values()["x"])


# What the tutorial prints may not depend on the order in which a computer's libraries add.
def test_every_sum_of_the_model_is_exact_in_float32() -> None:
    v = values()
    by_type: list[np.ndarray[Any, np.dtype[Any]]] = []
    for dtype in (np.float32, np.float64):
        w1, b1, w2, b2, x = (
            v[name].astype(dtype) for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "x")
        )
        hidden = np.maximum(np.add.accumulate(x[:, :, None] * w1.T, axis=1)[:, -1] + b1, 0)
        by_type.append(np.add.accumulate(hidden[:, :, None] * w2.T, axis=1)[:, -1] + b2)
    np.testing.assert_array_equal(by_type[0], by_type[1])


# -- the runner ------------------------------------------------------------------------------------------------------

PROGRAM = """builtin.module {
  func.func @f() {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    func.return
  }
}
"""


def page(*blocks: str) -> str:
    return "# Title\n\n" + "\n\nSome text.\n\n".join(blocks) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.mlir").write_text(PROGRAM, encoding="utf-8")
    return tmp_path


# A page that is up to date: nothing differs, an update leaves it as it is.
def test_up_to_date(folder: Path) -> None:
    text = page(
        "```console\n$ neuron-opt a.mlir -o b.mlir\n$ grep c1 b.mlir\n    %c1 = arith.constant 1 : index\n```",
        '```mlir b.mlir "func.func" .. "%c0" "func.return"\n'
        "func.func @f() {\n  %c0 = arith.constant 0 : index\n  ...\n  func.return\n```",
        "```text\nnot run\n```",
    )
    assert list(differences(text, folder)) == []
    assert updated(text, folder) == text


# A wrong line of output, a wrong excerpt: both are found at their lines, and an update repairs them.
def test_stale_blocks_are_found_and_repaired(folder: Path) -> None:
    right = page(
        "```console\n$ grep return a.mlir\n    func.return\n```",
        '```mlir a.mlir "%c1"\n%c1 = arith.constant 1 : index\n```',
    )
    wrong = right.replace("    func.return", "    func.exit\n    more").replace("constant 1", "constant 2")
    assert [difference.line for difference in differences(wrong, folder)] == [4, 12]
    assert updated(wrong, folder) == right


# An output that a page shortens stays shortened; what is shown of it is compared.
def test_elision(folder: Path) -> None:
    text = page("```console\n$ grep . a.mlir\nbuiltin.module {\n...\n}\n```")
    assert list(differences(text, folder)) == []
    (found,) = differences(text.replace("module {", "module"), folder)
    assert found.real == ["$ grep . a.mlir", "builtin.module {", "...", "}"]


# The output of one program is the input of the next; what goes to a file is not printed; errors are.
def test_pipes_files_and_errors(folder: Path) -> None:
    text = page(
        "```console\n"
        "$ neuron-opt a.mlir | grep c0 > c0.txt\n"
        "$ grep constant c0.txt\n    %c0 = arith.constant 0 : index\n"
        "$ neuron-opt missing.mlir\nerror[NX-FILE-001]: missing.mlir: No such file or directory\n```"
    )
    assert list(differences(text, folder)) == []


# Seconds at the end of a line are not compared, any other number is.
def test_seconds_are_not_compared(folder: Path) -> None:
    (folder / "t.txt").write_text("done: 12 ops, 0.7 s\n", encoding="utf-8")
    text = page("```console\n$ grep done t.txt\ndone: 12 ops, 3.1 s\n```")
    assert list(differences(text, folder)) == []
    assert len(list(differences(text.replace("12", "13"), folder))) == 1


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```console\n$ rm a.mlir\n```", "program 'rm' is not one that a page may use"),
        ("```console\n$ grep a *.mlir\n```", "file name patterns are not supported"),
        ("```console\n$ grep a a.mlir && grep b a.mlir\n```", "not one command"),
        ("```console\n$ grep a 2> b\n```", "only '>' is supported"),
        ("```console\nhello\n```", "begins with a command"),
        ("```console\n$ sed s/copies/x/ a.mlir\n```", "this edit changes nothing"),
        ('```mlir b.mlir "x"\n```', "no command has written b.mlir"),
        ('```mlir a.mlir "%c1" .. "%c0"\n```', "a.mlir has no line with '%c0' from line 4 on"),
    ],
)
def test_mistakes_in_a_page(block: str, message: str, folder: Path) -> None:
    with pytest.raises(PageError, match=re.escape(message)):
        list(differences(page(block), folder))
