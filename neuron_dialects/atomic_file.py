"""Files that are written as a whole: a reader sees the old one or the new one, also after Ctrl-C or a full disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Generator[Path]:
    """A new name beside `path` to write to; at the end of the block that file takes the place of `path`.

    When the block raises anything, an interrupt too, nothing is left behind and `path` is what it was. What is no
    regular file (a device, a pipe) cannot be replaced: it is written to as it is. Links are followed.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file at once."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole text file in UTF-8 at once."""
    write_bytes(path, text.encode())
