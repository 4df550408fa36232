"""Binary records described once: a `Layout` packs, unpacks and documents a run of little-endian fields without gaps."""

import struct
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Layout:
    """A packed little-endian record. `fields`: (name, `struct` format of one value, what it means)."""

    fields: tuple[tuple[str, str, str], ...]
    codec: struct.Struct = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", struct.Struct("<" + "".join(code for _, code, _ in self.fields)))

    @property
    def size_bytes(self) -> int:
        """Bytes of the record."""
        return self.codec.size

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Byte offset of every field by name."""
        offsets: dict[str, int] = {}
        position = 0
        for name, code, _ in self.fields:
            offsets[name] = position
            position += struct.calcsize("<" + code)
        return offsets

    def table(self) -> str:
        """The record as a Markdown table: offset, bytes, name, meaning."""
        rows = ["| offset | bytes | field | meaning |", "|---:|---:|---|---|"]
        for name, code, meaning in self.fields:
            rows.append(f"| {self.offsets[name]} | {struct.calcsize('<' + code)} | `{name}` | {meaning} |")
        return "\n".join(rows)
