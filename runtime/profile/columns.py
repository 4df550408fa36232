"""Tables in columns: dataclasses whose fields are numpy arrays of one length, each of a declared element type."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_type_hints

import numpy as np

from neuron_dialects.errors import NeuronError

Array = np.ndarray[Any, np.dtype[Any]]
I8 = Annotated[Array, "|i1"]
I16 = Annotated[Array, "<i2"]
I32 = Annotated[Array, "<i4"]
I64 = Annotated[Array, "<i8"]
F64 = Annotated[Array, "<f8"]
Bool = Annotated[Array, "|b1"]


@dataclass(frozen=True)
class Table:
    """Base of tables. Columns are one-dimensional, of their fields' element types, and all of one length."""

    def __post_init__(self) -> None:
        for name, dtype in column_types(type(self)).items():
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != dtype or len(array) != len(self):
                raise NeuronError(
                    "NX-PROF-001",
                    f"column {name} of {type(self).__name__} is {array.dtype}{list(array.shape)}, "
                    f"must be {dtype}[{len(self)}]",
                )

    def __len__(self) -> int:
        return int(getattr(self, next(iter(column_types(type(self))))).size)

    @classmethod
    def of(cls, **columns: Any) -> Self:
        """A table from lists or arrays of numbers, by column; one that is left out is empty."""
        types = column_types(cls)
        return cls(**{name: np.asarray(columns.get(name, ()), dtype=dtype) for name, dtype in types.items()})

    def take(self, rows: Array) -> Self:
        """The table of some rows, given by index or as a mask."""
        return type(self)(**{name: getattr(self, name)[rows] for name in column_types(type(self))})


@functools.cache
def column_types(table: type[Table]) -> dict[str, np.dtype[Any]]:
    """Element types of the columns of a table, by name, in their order."""
    hints = get_type_hints(table, include_extras=True)
    return {name: np.dtype(hint.__metadata__[0]) for name, hint in hints.items()}
