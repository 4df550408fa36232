"""Makes the pictures of docs/profiling.md: `python -m tests.tools.profile.screenshots REPORT.html FOLDER`.

They are written with few colours, for the manual is part of the repository. Needs Chromium and Pillow.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tests.tools.profile.chromium import Page, chromium

_COLOURS = 160

_ZOOMED = """(() => {
  const app = neuronProfile, {idle} = app.program.tables;
  const gaps = [...idle.since.keys()].filter((row) => idle.stream[row] === 0 && idle.event[row] >= 0);
  const row = gaps.sort((a, b) => idle.length[b] - idle.length[a])[gaps.length > 20 ? 20 : 0];
  app.open("timeline");
  app.around(idle.since[row], idle.length[row]);
  app.explainGap(0, idle.event[row], idle.since[row]);
})()"""
"""Shows a long gap of the tensor engine with its explanation."""

_OPERATORS = """(() => {
  document.getElementById("roofline-kind").value = "operators";
  neuronProfile.open("roofline");
})()"""

PICTURES = {
  "timeline": "neuronProfile.open('timeline')",
  "gap": _ZOOMED,
  "memory": "(neuronProfile.clear(), neuronProfile.show(0, neuronProfile.program.total), neuronProfile.open('memory'))",
  "roofline": _OPERATORS,
  "stalls": "neuronProfile.open('stalls')",
}  # fmt: skip
"""Name of a picture -> what to do in the page before it is taken."""


def take(page: Page, folder: Path) -> None:
    """Write every picture."""
    for name, action in PICTURES.items():
        page.value(f"{action}, 0")
        path = folder / f"profile-{name}.png"
        page.screenshot(path)
        Image.open(path).convert("RGB").quantize(_COLOURS).save(path, optimize=True)


def main(arguments: Sequence[str]) -> int:
    """Entry point."""
    report, folder = map(Path, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as page:
        page.open(report)
        take(page, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
