"""What it costs to compute the blocks of a network again for the gradient, and how much memory a train step then needs.

    python benchmarks/remat.py    # a table, and results/benchmarks/remat.json

One step with and one without in turn, batch 64, float32; memory is what the compiled step holds beside its state.
"""

from pathlib import Path

import jax
import numpy as np
import tyro
from growth import beginning, compiled_step, trial_of
from race import RESULTS, machine, write_record
from rich.console import Console
from rich.table import Table

from relujax.models.dfn_mr import DFNMR
from relujax.models.preact_resnet import PreActResNet
from relujax.models.resnet import ResNet
from relujax.timing import seconds_per_call


def main(repeats: int = 9, output: Path = RESULTS) -> None:
    """Measures every network."""
    console, record = Console(), {"repeats": repeats, "machine": machine(), "networks": {}}
    table = Table("network", "kept MB", "again MB", "less", "kept ms", "again ms", "× time", title="batch 64")
    for model in (
        ResNet(20, 10),
        ResNet(110, 10),
        PreActResNet(110, 10),
        PreActResNet(164, 10, "bottleneck"),
        DFNMR(110, 10),
    ):
        name = " ".join(map(str, (type(model).__name__, model.depth, getattr(model, "block", ""))))
        trial = trial_of(model, 64)
        given = beginning(trial)
        steps = {way: compiled_step(trial, remat=way == "again") for way in ("kept", "again")}
        megabytes = {way: step.memory_analysis().temp_size_in_bytes / 1e6 for way, step in steps.items()}
        calls = {way: lambda step=step, given=given: jax.block_until_ready(step(*given)) for way, step in steps.items()}
        seconds = seconds_per_call(calls, repeats=repeats, rounds=1)
        kept, again = (float(np.median(seconds[way])) for way in ("kept", "again"))
        ratio = float(np.median(seconds["again"] / seconds["kept"]))
        table.add_row(
            name,
            f"{megabytes['kept']:.0f}",
            f"{megabytes['again']:.0f}",
            f"{1 - megabytes['again'] / megabytes['kept']:.0%}",
            f"{1e3 * kept:.0f}",
            f"{1e3 * again:.0f}",
            f"{ratio:.2f}",
        )
        record["networks"][name.strip()] = {
            "megabytes": megabytes,
            "seconds": {way: values.tolist() for way, values in seconds.items()},
        }
    console.print(table)
    write_record(output / "remat.json", record)


if __name__ == "__main__":
    tyro.cli(main)
