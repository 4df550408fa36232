"""Progress of long work on standard error: a bar with the step that runs now, for somebody who looks on.

Where standard error is no terminal nothing is printed, so that logs and pipes stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO

Tell = Callable[[str], None]


@contextmanager
def progress(title: str, steps: int | None = None, file: IO[str] | None = None) -> Generator[Tell]:
    """A bar while the block runs, gone behind it; yields a function that is told of each step.

    Args:
        title: what is being done.
        steps: how many steps there will be, where that is known; more are no error.
        file: standard error by default.
    """
    stream = sys.stderr if file is None else file
    if not stream.isatty():
        yield lambda step: None
        return
    # Imported here: most runs have nobody who looks on.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[step]}"),
    )
    with Progress(*columns, console=Console(file=stream), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(title, total=steps, step="")

        def tell(step: str) -> None:
            bar.update(task, step=step, advance=1)

        yield tell
