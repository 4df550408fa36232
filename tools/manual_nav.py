"""The order of the manual's pages, as a hook that mkdocs calls: sections for a reader, every page in one of them.

A page that no section names comes last among the guides, so that a new page is never out of reach.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SECTIONS: dict[str, tuple[str, ...]] = {
    "Start": ("tutorial.md", "frontends.md", "shapes.md", "number-formats.md", "partitioning.md", "serving.md"),
    "Tools": ("neuron-opt.md", "assembly.md", "python-api.md", "profiling.md", "optimization-levels.md", "editors.md"),
    "Extend": ("writing-a-pass.md",),
    "Understand": (
        "execution-model.md",
        "pipeline.md",
        "neff.md",
        "benchmarks.md",
        "performance.md",
        "ablation.md",
        "onnx-backend.md",
    ),
}
"""Section -> its pages, in reading order; pages that do not exist are passed over."""

REST = "Tools"
"""The section that pages come to which no other one names."""


def navigation(docs: Path) -> list[Any]:
    """mkdocs' `nav` for the pages in `docs`: the index, the sections, the generated reference."""
    present = sorted(path.name for path in docs.glob("*.md") if path.name != "README.md")
    named = {name for names in SECTIONS.values() for name in names}
    nav: list[Any] = ["README.md"]
    for title, names in SECTIONS.items():
        chosen = [name for name in names if name in present]
        chosen += [name for name in present if name not in named] if title == REST else []
        nav.append({title: chosen})
    folders = sorted({path.parent for path in docs.rglob("*.md")} - {docs})
    for folder in folders:
        pages = [str(path.relative_to(docs)) for path in sorted(folder.glob("*.md"))]
        nav.append({folder.relative_to(docs).as_posix().capitalize(): pages})
    return nav


def on_config(config: Any) -> Any:
    """mkdocs' event: the configuration is read, pages are not yet."""
    config.nav = navigation(Path(config.docs_dir))
    return config
