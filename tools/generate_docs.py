"""`python -m tools.generate_docs`: writes the pages of the manual that are made from definitions.

The reference pages, the tables inside docs/neff.md, the index and the editors' grammars are derived from the dialects,
the instruction table, the target files, the passes, the command lines and the error codes. With `--check` nothing is
written: stale pages are listed, and the exit code is 1 when there are any.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.neff.tables import fill_tables
from tools.editor.vscode import write_extension
from tools.errors import EXIT_OK, EXIT_USER_ERROR, run_main
from tools.reference_pages.commands import commands_page
from tools.reference_pages.dialects import graph_page, neuron_page, nisa_page, tile_page
from tools.reference_pages.errors import errors_page
from tools.reference_pages.isa import isa_page
from tools.reference_pages.markdown import bullets, page
from tools.reference_pages.mxnet import mxnet_page
from tools.reference_pages.operators import operators_page
from tools.reference_pages.passes import passes_page
from tools.reference_pages.targets import targets_page

ROOT = Path(__file__).parent.parent

REFERENCE: dict[str, tuple[str, Callable[[], str]]] = {
    "graph.md": ("the graph dialect: tensors and framework operators", graph_page),
    "tile.md": ("the tile dialect: loops over tiles, buffers in the memories of a core", tile_page),
    "nisa.md": ("the nisa dialect: instructions, semaphores, queues", nisa_page),
    "neuron.md": ("the neuron dialect: target, memory spaces, launches", neuron_page),
    "isa.md": ("the instruction set: operands, fields, limits and cost of every instruction", isa_page),
    "targets.md": ("the targets: every figure with its source", targets_page),
    "commands.md": ("the commands and their options", commands_page),
    "operators.md": ("the ONNX operators that can run on a core", operators_page),
    "passes.md": ("the passes and conversions, with examples", passes_page),
    "mxnet.md": ("the operators of MXNet that have a converter", mxnet_page),
    "errors.md": ("the error codes", errors_page),
}
"""Page in docs/reference -> what it is about, and the function that makes it."""


def generated_pages(root: Path) -> dict[Path, str]:
    """Every generated page of the manual in `root`/docs with the text that it must have."""
    docs = root / "docs"
    pages = {docs / "reference" / name: make() for name, (_, make) in REFERENCE.items()}
    neff = docs / "neff.md"
    if neff.exists():
        pages[neff] = fill_tables(neff.read_text(encoding="utf-8"))
    pages[docs / "README.md"] = _index(docs)
    return pages


def _index(docs: Path) -> str:
    """The table of contents: the written pages by their titles, then the reference."""
    written = sorted(path for path in docs.glob("*.md") if path.name != "README.md")
    return page(
        "Manual",
        bullets(f"[{_title(path)}]({path.name})" for path in written),
        "## Reference",
        "Made from the definitions in the code.",
        bullets(f"[{name.removesuffix('.md')}](reference/{name}): {about}" for name, (about, _) in REFERENCE.items()),
    )


def _title(path: Path) -> str:
    """The first heading of a page."""
    heading = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return heading.group(1).strip() if heading else path.stem


def stale_pages(root: Path) -> list[Path]:
    """The generated pages that are missing or differ from what they must be, and pages of no definition any more."""
    pages = generated_pages(root)
    differing = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    left_over = [path for path in sorted((root / "docs" / "reference").glob("*.md")) if path not in pages]
    return [*differing, *left_over]


def write_pages(root: Path) -> list[Path]:
    """Bring the manual up to date; returns the pages that changed."""
    stale = stale_pages(root)
    pages = generated_pages(root)
    for path in stale:
        if path in pages:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path], encoding="utf-8")
        else:
            path.unlink()
    return stale


def _run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.generate_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is stale")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.check:
        stale = stale_pages(ROOT)
        for path in stale:
            print(f"stale: {path.relative_to(ROOT)}", file=sys.stderr)
        return EXIT_USER_ERROR if stale else EXIT_OK
    for path in [*write_pages(ROOT), *write_extension(ROOT / "editors" / "vscode")]:
        print(path.relative_to(ROOT))
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_run, argv)


if __name__ == "__main__":
    sys.exit(main())
