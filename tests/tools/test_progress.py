"""Progress bars: seen on a terminal, and nowhere else."""

from __future__ import annotations

import io
from pathlib import Path

from neuron_dialects.atomic_file import atomic_file, write_text
from tools.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_the_step() -> None:
    screen = Terminal()
    with progress("compiling m.onnx", 2, screen) as tell:
        for step in ("import", "graph-fuse", "one more"):
            tell(step)
    assert "compiling m.onnx" in screen.getvalue()
    assert "one more" in screen.getvalue()


def test_a_pipe_sees_nothing() -> None:
    pipe = io.StringIO()
    with progress("compiling", None, pipe) as tell:
        tell("import")
    assert pipe.getvalue() == ""


# Links are followed, devices are written to, and a failure leaves the old file.
def test_atomic_files(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    write_text(real, "old")
    link.symlink_to(real)
    write_text(link, "new")
    assert (real.read_text(encoding="utf-8"), link.is_symlink()) == ("new", True)
    write_text("/dev/null", "gone")
    assert not Path("/dev/null").is_file()
    try:
        with atomic_file(real) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    assert real.read_text(encoding="utf-8") == "new"
