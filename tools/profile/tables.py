"""Writes the tables of a profile as files: CSV, or Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
from pathlib import Path

from neuron_dialects.errors import NeuronError
from runtime.profile.analysis import Analysis
from runtime.profile.explorer_tables import explorer_tables, table_rows


def write_tables(analysis: Analysis, folder: Path, output_format: str) -> int:
    """Write one file for each table into `folder`, which is made if need be; the number of tables.

    NeuronError NX-PROF-003 for "parquet" without pyarrow.
    """
    if output_format == "parquet":
        try:
            import pyarrow  # pyright: ignore[reportMissingImports]
            import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise NeuronError(
                "NX-PROF-003", "Parquet needs pyarrow", help="pip install 'neuron-toolkit[parquet]', or use csv"
            ) from None
    folder.mkdir(parents=True, exist_ok=True)
    tables = explorer_tables(analysis)
    for name, columns in tables.items():
        if output_format == "parquet":
            parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")
            continue
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(table_rows(columns))
    return len(tables)
