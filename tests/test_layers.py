"""The import rules of the architecture: who may import whom, and what must not be imported early."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "neuron_dialects": (),
    "passes": ("neuron_dialects",),
    "runtime": ("neuron_dialects",),
    "lowering": ("neuron_dialects", "passes", "runtime"),
    "neuron_toolkit": ("neuron_dialects", "passes", "runtime", "lowering"),
    "tools": ("neuron_dialects", "passes", "runtime", "lowering", "neuron_toolkit"),
}
"""Package -> the packages of ours that it may import besides itself."""

# Importing these takes longer than everything else together, and textual IR needs neither.
HEAVY = ("onnx", "onnxruntime")
WITHOUT_HEAVY = ("neuron_dialects", "passes")


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of each module imported below `tree`; for `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def early_imports(node: ast.AST) -> Iterator[ast.stmt]:
    """Imports that run when the module `node` is imported: not those in functions or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from early_imports(ast.Module(child.orelse, []))
        else:
            yield from early_imports(child)


def layering_violations(root: Path) -> list[str]:
    """Imports below `root`, early or late, that `MAY_IMPORT` does not allow."""
    violations: list[str] = []
    for package, allowed in MAY_IMPORT.items():
        for path in sorted((root / package).rglob("*.py")):
            for line, module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
                top = module.partition(".")[0]
                if top in MAY_IMPORT and top != package and top not in allowed:
                    violations.append(f"{path.relative_to(root)}:{line}: {package} must not import {module}")
    return violations


def heavy_imports(root: Path) -> list[str]:
    """Imports of slow libraries at import time of a package that should start fast."""
    violations: list[str] = []
    for package in WITHOUT_HEAVY:
        for path in sorted((root / package).rglob("*.py")):
            for statement in early_imports(ast.parse(path.read_text(encoding="utf-8"))):
                for line, module in imported_modules(statement):
                    if module.partition(".")[0] in HEAVY:
                        violations.append(f"{path.relative_to(root)}:{line}: import {module} inside the function")
    return violations


def test_imports_point_one_way():
    assert sorted(set(layering_violations(ROOT))) == []


def test_heavy_libraries_are_imported_late():
    assert sorted(set(heavy_imports(ROOT))) == []


# The checks themselves: a dialect that imports a pass, inside a function, and a pass that imports a tool, are found.
def test_violations_are_found(tmp_path: Path):
    (tmp_path / "neuron_dialects").mkdir()
    (tmp_path / "neuron_dialects" / "tile.py").write_text("def f():\n    from passes.tile import fuse\n")
    (tmp_path / "passes" / "graph").mkdir(parents=True)
    (tmp_path / "passes" / "graph" / "cast.py").write_text("import onnx.helper\nimport tools.errors\nimport passes.x\n")
    assert layering_violations(tmp_path) == [
        "neuron_dialects/tile.py:2: neuron_dialects must not import passes.tile",
        "neuron_dialects/tile.py:2: neuron_dialects must not import passes.tile.fuse",
        "passes/graph/cast.py:2: passes must not import tools.errors",
    ]
    assert heavy_imports(tmp_path) == ["passes/graph/cast.py:1: import onnx.helper inside the function"]


# An import in a class body or a branch runs early; one in a function or for the type checker does not.
def test_what_runs_early():
    source = """
if TYPE_CHECKING:
    import onnx.a
else:
    import onnx.b
class C:
    import onnx.c
    def f(self):
        import onnx.d
"""
    found = [module for node in early_imports(ast.parse(source)) for _, module in imported_modules(node)]
    assert sorted(found) == ["onnx.b", "onnx.c"]


# A folder without __init__.py would be left out of the installed package.
@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_folder_is_a_package(package: str):
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


# The packages that are installed are those that the rules speak about: a new one must be placed in the order.
def test_installed_packages_are_layered():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {pattern.removesuffix("*") for pattern in included} == set(MAY_IMPORT)


# Registering everything we have imports no dialect, no pass and no numeric library.
def test_universe_is_lazy():
    code = "import sys, neuron_dialects.universe; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loaded = {name for name in output.split() if name.partition(".")[0] in (*MAY_IMPORT, *HEAVY, "numpy")}
    assert loaded == {
        "neuron_dialects", "neuron_dialects.universe", "passes", "passes.registry",
    }  # fmt: skip
