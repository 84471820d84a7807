"""How long a study takes on this device, from a few steps that were really taken, and how long its runs did take."""

from collections.abc import Iterable
from dataclasses import replace

import jax
import numpy as np

from relujax import datasets
from relujax.loop import Options, mesh_of, splits
from relujax.sharding import batches_of_runs, everywhere, one_cpu_device_per_core, over_runs
from relujax.timing import seconds_per_call
from relujax.train import Split, compile_programs, dispatch
from relujax.trial import RunResult, Trial

STEPS = {"step": 4, "part": 20, "epoch": 200}  # that are timed together, by what one call of a program trains


def seconds_of(trial: Trial, runs: int, options: Options | None = None) -> float:
    """Seconds that so many runs of the trial will take: their steps and evaluations, on noise.

    Left out: compiling, the trial that it starts from, and reading the images of a set that fits no device.
    """
    options = options or Options()
    one_cpu_device_per_core(options.devices)
    facts, size = datasets.facts_of(trial.data), trial.recipe.batch_size
    streamed = facts.large
    groups = batches_of_runs(range(runs), mesh_of(trial, runs, options), alone=streamed)
    mesh = mesh_of(trial, len(groups[0]), options)
    steps = STEPS[dispatch(trial, mesh, facts.shape, streamed, options.calls).per_call]
    train = _noise(trial, steps * size)
    images = train if streamed else jax.device_put(train, everywhere(mesh))
    shape = images.images.shape
    programs = compile_programs(trial, mesh, shape, streamed, **options.of_programs)
    seeds = jax.device_put(np.arange(len(groups[0]), dtype=np.int32), over_runs(mesh))
    states = programs.init(seeds, images.take(np.arange(1)))

    def train_steps() -> object:
        nonlocal states
        states = programs.epoch(states, seeds, images, lambda steps: False)
        return jax.block_until_ready(states.step)

    def evaluation() -> object:
        return jax.block_until_ready(programs.measure(states, images, {"test": images}))

    with jax.default_matmul_precision("highest"):
        taken = seconds_per_call({"steps": train_steps, "evaluation": evaluation}, repeats=1, rounds=3)
    an_epoch = (facts.train - trial.data.validation) // size * float(taken["steps"][0]) / steps
    watched = trial.data.validation or facts.test
    an_epoch += watched / len(train) * float(taken["evaluation"][0])
    return len(groups) * trial.recipe.length.count * an_epoch


def seconds_taken(phases: Iterable[Iterable[RunResult]]) -> tuple[float, int]:
    """Seconds that the runs of a trial's last phase which have ended took with all phases, and how many those are.

    Runs at once share theirs.
    """
    every = [{run.seed: run for run in runs} for runs in phases]
    ended = [seed for seed, run in every[-1].items() if run.status == "done"]
    return float(sum(runs[seed].curve("seconds").sum() for runs in every for seed in ended if seed in runs)), len(ended)


def _noise(trial: Trial, count: int) -> Split:
    """So many images of the trial's shape, normalised as it would be."""
    facts, generator = datasets.facts_of(trial.data), np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *facts.shape), np.uint8)
    labels = generator.integers(0, facts.num_classes, count, dtype=np.int32)
    alike = datasets.Dataset("noise", "noise", facts.num_classes, images, labels, images, labels, digest="")
    found = splits(replace(trial, data=replace(trial.data, validation=0)), alike)["train"]
    assert isinstance(found, Split)
    return found
