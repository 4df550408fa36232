"""Loading plug-ins: what goes wrong is told with a code, and then nothing of the plug-in is there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import neuron_toolkit.plugin as plugin_module
from lowering.pipeline import EXTENSIONS, PIPELINES, add_to_pipeline, pass_specs
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import INSTRUCTIONS, InstructionDef
from neuron_dialects.isa.definitions import cost_stream
from neuron_dialects.target import add_target, target_names
from neuron_dialects.universe import NEURON_UNIVERSE
from neuron_toolkit import NewInstruction, Plugin, load_plugin, loaded_plugins
from passes.graph.canonicalize import GraphCanonicalizePass
from passes.registry import PASSES
from runtime.neff.records import FINGERPRINT, instruction_table_text
from tools.neuron_opt import run_in_process

IMPORT = "from neuron_toolkit import Plugin\n"


@pytest.fixture(autouse=True)
def clean_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plug-ins last as long as the process; here as long as a test."""
    for table in (
        PASSES,
        EXTENSIONS,
        PIPELINES,
        INSTRUCTIONS,
        NEURON_UNIVERSE.all_passes,
        NEURON_UNIVERSE.all_dialects,
    ):
        for name in table:
            monkeypatch.setitem(table, name, table[name])
    monkeypatch.setattr(plugin_module, "_loaded", {})
    modules = set(sys.modules)
    pipelines, before = (
        dict(PIPELINES),
        {name: dict(t) for name, t in (("p", PASSES), ("u", NEURON_UNIVERSE.all_passes))},
    )
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("plug_"):
            del sys.modules[name]
    EXTENSIONS.clear()
    PIPELINES.update(pipelines)
    for table, kept in ((PASSES, before["p"]), (NEURON_UNIVERSE.all_passes, before["u"])):
        for name in set(table) - set(kept):
            del table[name]


def written(folder: Path, text: str, name: str = "plug_a.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PLUGIN = 3", "has no PLUGIN"),
        ("", "has no PLUGIN"),
        ("x = (", "SyntaxError: '(' was never closed"),
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_files_that_are_no_plugins(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(NeuronError) as caught:
        load_plugin(path)
    assert (caught.value.code, loaded_plugins()) == ("NX-PLUGIN-001", ())
    assert message in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = run_in_process(["--load-pass-plugin", str(tmp_path / "absent.py"), "-"])
    assert done.exit_code == 1
    assert "error[NX-PLUGIN-001]" in done.stderr and "absent.py: no such file" in done.stderr


PASS = """
from dataclasses import dataclass
from neuron_toolkit import Plugin
from xdsl.passes import ModulePass

@dataclass(frozen=True)
class Mine(ModulePass):
    name = "{name}"
    size: int = 4

    def apply(self, ctx, op):
        print("size", self.size)

PLUGIN = Plugin(passes=[Mine], pipeline={pipeline})
"""


# A file without a plug-in, or with one whose pass there is already, is read again once it has been mended.
@pytest.mark.parametrize("text", ["PLUGIN = 3", PASS.format(name="graph-fuse", pipeline="[]")])
def test_a_mended_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(NeuronError):
        load_plugin(path)
    load_plugin(written(tmp_path, PASS.format(name="plug-mended", pipeline="[]")))
    assert [loaded.name for loaded in loaded_plugins()] == [path.stem]


# A pass of a plug-in is a pass like any other: listed, with options, alone and in pipelines.
def test_a_pass(tmp_path: Path) -> None:
    path = written(tmp_path, PASS.format(name="plug-mine", pipeline="[('plug-mine{size=3}', 'graph-fuse')]"))
    done = run_in_process(["--load-pass-plugin", str(path), "-p", "plug-mine{size=7}"], "builtin.module {}")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("size 7\n")
    specs = pass_specs()
    assert specs[specs.index("graph-fuse") + 1] == "plug-mine{size=3}"
    assert "graph-fuse,plug-mine{size=3},graph-" in PIPELINES["default"]
    assert "plug-mine" not in PIPELINES["graph-to-tile"]
    # Loading again changes nothing.
    load_plugin(path)
    assert pass_specs() == specs
    assert [loaded.name for loaded in loaded_plugins()] == ["plug_a"]


def test_names_that_are_taken(tmp_path: Path) -> None:
    path = written(tmp_path, PASS.format(name="graph-fuse", pipeline="[]"))
    with pytest.raises(NeuronError, match="there is a pass 'graph-fuse' already"):
        load_plugin(path)
    with pytest.raises(NeuronError, match="there is a pass 'graph-canonicalize' already"):
        plugin_module.register(Plugin(passes=[GraphCanonicalizePass]), "p")
    with pytest.raises(NeuronError, match="no pass 'nowhere'; it has graph-canonicalize"):
        load_plugin(written(tmp_path, PASS.format(name="plug-b", pipeline="[('plug-b', 'nowhere')]"), "plug_b.py"))
    with pytest.raises(NeuronError, match="there is a module 'json' already"):
        load_plugin(written(tmp_path, "", "json.py"))
    assert loaded_plugins() == ()


# The order is that of loading, behind the first pass of the name, also where that is a plug-in's.
def test_places_in_the_pipeline() -> None:
    add_to_pipeline("first", "graph-canonicalize")
    add_to_pipeline("second", "graph-canonicalize")
    add_to_pipeline("third", "first")
    assert pass_specs()[:5] == ["graph-canonicalize", "first", "third", "second", "graph-raise-composites"]
    assert pass_specs().count("first") == 1


# The toolkit's own instructions are what a file's fingerprint stands for, whatever plug-ins add.
def test_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, opcode: int) -> InstructionDef:
        return InstructionDef(name, opcode, ("dve",), (), (), "", "", cost_stream)

    for definition, tile_op, message in (
        (made("memset", 64), None, "there is an instruction memset already"),
        (made("new", 12), None, "instruction new: opcode 12 is that of memset"),
        (made("new", 63), None, "instruction new: opcode 63 is not in 64 to 127"),
        (made("new", 64), "memset", "there is an operation tile.memset already"),
    ):
        with pytest.raises(NeuronError, match=message):
            plugin_module.register(Plugin(instructions=[NewInstruction(definition, lambda case: case, tile_op)]), "p")
    before = instruction_table_text()
    monkeypatch.setitem(INSTRUCTIONS, "new", made("new", 64))
    assert instruction_table_text() == before
    assert FINGERPRINT > 0


def test_targets(tmp_path: Path) -> None:
    for text, message in (
        ("generation = 2\n[figures]\nx = 3\n", "needs a value and a source"),
        ("x = ", "Invalid value"),
    ):
        with pytest.raises(NeuronError, match=message) as caught:
            add_target(written(tmp_path, text, "odd.toml"))
        assert caught.value.code == "NX-TARGET-002"
    with pytest.raises(NeuronError, match="there is a target 'trn1' already"):
        add_target(written(tmp_path, 'inherits = "inf1"\n', "trn1.toml"))
    assert "odd" not in target_names()


# Installed plug-ins come through entry points; one that does not load says which it is.
def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin_module.load_installed_plugins()
    assert loaded_plugins() == ()
    written(tmp_path, IMPORT + "PLUGIN = Plugin()\nOTHER = 3\n", "plug_installed.py")
    package = tmp_path / "plug-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for value, message in (
        ("plug_installed:OTHER", "plug-in 'mine': plug_installed:OTHER is no Plugin"),
        ("plug_absent:PLUGIN", "plug-in 'mine' (plug_absent:PLUGIN): ModuleNotFoundError"),
        ("plug_installed:PLUGIN", None),
    ):
        declared = f"[neuron_toolkit.plugins]\nmine = {value}\n"
        (package / "entry_points.txt").write_text(declared, encoding="utf-8")
        importlib.invalidate_caches()
        if message is None:
            plugin_module.load_installed_plugins()
            plugin_module.load_installed_plugins()
            continue
        with pytest.raises(NeuronError) as caught:
            plugin_module.load_installed_plugins()
        assert (caught.value.code, message in caught.value.message) == ("NX-PLUGIN-001", True)
    assert [loaded.name for loaded in loaded_plugins()] == ["mine"]
