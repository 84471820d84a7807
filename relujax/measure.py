"""Measurement → arrays in the workdir: measures the rows that are not there yet, and reads what is there."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from relujax import records
from relujax.claims import Results
from relujax.environment import environment
from relujax.errors import check_choice
from relujax.study import Measurement, as_runs


def measure(measurement: Measurement, *, name: str, workdir: Path, only: Sequence[str] = ()) -> None:
    """Calls every row (or those in `only`) that `workdir` does not hold."""
    from rich.console import Console
    from rich.markup import escape

    for label in only:
        check_choice("row", label, measurement.rows)
    done = records.read_measured_rows(workdir, name, measurement.labels)
    for position, (label, row) in enumerate(measurement.rows.items()):
        if label in done or (only and label not in only):
            continue
        status = Console(stderr=True, force_jupyter=False).status(f"measuring {escape(label)}")
        with status, jax.default_matmul_precision("highest"):  # as in training
            arrays = {key: np.asarray(values) for key, values in row().items()}
        records.write_measured_row(workdir, name, position, label, arrays, environment())


def read_measurement(measurement: Measurement, name: str, workdir: Path) -> Results:
    """The repeats of every row that `workdir` holds, in the form of runs."""
    measured = records.read_measured_rows(workdir, name, measurement.labels)
    return {label: as_runs(measurement, label, *found) for label, found in measured.items()}
