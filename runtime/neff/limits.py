"""How much a NEFF may ask of its reader: sizes and counts beyond which a file is refused before any work is done."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one read. The defaults are far above what a compiled model needs and bound time and memory."""

    file_bytes: int = 64 << 30
    """Size of the whole file."""
    expanded_bytes: int = 2 << 30
    """Size of a gzip archive after expansion; a plain archive is mapped, not expanded."""
    members: int = 65536
    """Members of the archive."""
    json_bytes: int = 64 << 20
    """Size of one JSON member."""
    json_depth: int = 32
    """Nesting of one JSON member."""
    queue_bytes: int = 256 << 20
    """Size of one engine's instructions."""


DEFAULT_LIMITS = Limits()
