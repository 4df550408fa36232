"""Writes the tables of a profile as files: CSV, or Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuron_dialects.errors import NeuronError
from runtime.profile.analysis import Analysis
from runtime.profile.explorer_tables import Columns, explorer_tables, table_rows


def write_tables(analysis: Analysis, folder: Path, output_format: str) -> int:
    """Write one file for each table into `folder`, which is made if need be; the number of tables.

    NeuronError NX-PROF-003 for "parquet" without pyarrow.
    """
    write = _parquet_writer() if output_format == "parquet" else _write_csv
    folder.mkdir(parents=True, exist_ok=True)
    tables = explorer_tables(analysis)
    for name, columns in tables.items():
        write(columns, folder / f"{name}.{output_format}")
    return len(tables)


def _write_csv(columns: Columns, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(table_rows(columns))


def _parquet_writer() -> Callable[[Columns, Path], None]:
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise NeuronError(
            "NX-PROF-003", "Parquet needs pyarrow", help="pip install 'neuron-toolkit[parquet]', or use csv"
        ) from None
    return lambda columns, path: parquet.write_table(pyarrow.table(columns), path)
