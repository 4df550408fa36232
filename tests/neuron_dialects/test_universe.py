import ast
import importlib
import subprocess
import sysconfig
from pathlib import Path

import pytest
from xdsl.passes import ModulePass
from xdsl.universe import XDSL_UNIVERSE, Universe

from neuron_dialects.universe import DIALECTS, NEURON_UNIVERSE
from passes.registry import PASSES
from tools.neuron_opt import run_in_process

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects_load_under_their_names(name: str):
    assert NEURON_UNIVERSE.all_dialects[name]().name == name


def test_passes_load_under_their_names():
    loaded = {name: factory() for name, factory in NEURON_UNIVERSE.all_passes.items()}
    assert {name: pass_class.name for name, pass_class in loaded.items()} == {name: name for name in PASSES}
    assert [name for name, pass_class in loaded.items() if not issubclass(pass_class, ModulePass)] == []
    assert [name for name, pass_class in loaded.items() if not pass_class.__doc__] == []


# A pass that is missing in the table could not be run: every class with a pass's base and name must be in it.
def test_every_pass_is_registered():
    defined: dict[str, str] = {}
    for path in sorted([*(ROOT / "passes").rglob("*.py"), *(ROOT / "lowering").rglob("*.py")]):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and "ModulePass" in {ast.unparse(base) for base in node.bases}:
                pass_class: type[ModulePass] = getattr(importlib.import_module(module), node.name)
                defined[pass_class.name] = f"{module}:{node.name}"
    assert defined == PASSES


# xDSL refuses two universes that share a name, and takes every tool down with it.
def test_names_are_not_taken_by_xdsl():
    assert NEURON_UNIVERSE.all_dialects.keys() & XDSL_UNIVERSE.all_dialects.keys() == set()
    assert NEURON_UNIVERSE.all_passes.keys() & XDSL_UNIVERSE.all_passes.keys() == set()


# The installed entry point: xDSL finds our dialects and passes beside its own.
def test_xdsl_discovers_the_universe():
    multiverse = Universe.get_multiverse()
    assert NEURON_UNIVERSE.all_dialects.keys() <= multiverse.all_dialects.keys()
    assert NEURON_UNIVERSE.all_passes.keys() <= multiverse.all_passes.keys()
    assert XDSL_UNIVERSE.all_passes.keys() <= multiverse.all_passes.keys()


# Plain xdsl-opt, a separate program, reads a file of each dialect and prints what neuron-opt prints.
@pytest.mark.parametrize("dialect", DIALECTS)
def test_xdsl_opt_reads_our_dialects(dialect: str):
    files = (ROOT / "tests" / "filecheck" / dialect).glob("*.mlir")
    path = min(path for path in files if "diagnostics" not in path.read_text(encoding="utf-8"))
    xdsl_opt = Path(sysconfig.get_path("scripts")) / "xdsl-opt"
    arguments = [str(path), "--split-input-file"]
    printed = subprocess.run([xdsl_opt, *arguments], capture_output=True, text=True, check=False)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert f"{dialect}." in printed.stdout
    assert _lines(printed.stdout) == _lines(run_in_process(arguments).stdout)


def _lines(text: str) -> list[str]:
    """Without the empty lines that xdsl-opt prints behind each module."""
    return [line for line in text.splitlines() if line]
