"""Many runs over a cluster: one Ray task per batch of runs, which a lost node only sets back to its last checkpoint.

Ray places the tasks and starts lost ones again. What there is to do stands in the run directories alone, so a second
start of a task, or of the whole command, does what is missing. The workdir has to be a folder that all nodes see.
"""

import logging
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relujax import records, runner
from relujax.environment import keep_compiled_programs
from relujax.errors import InputError, need, one_line
from relujax.preemption import Preempted
from relujax.trial import Trial, trial_id

RETRIES = 3
PATIENCE_SECONDS = 120.0  # until the lock of a run is free whose node was lost
Wanted = Sequence[tuple[Sequence[Trial], Sequence[int]]]  # the trials of each study, and their seeds


def train(
    wanted: Wanted, *, workdir: Path, address: str | None, resources: Sequence[str], options: Mapping[str, Any]
) -> None:
    """Trains on the cluster at `address` (None: this machine) what is wanted; notes in its directory why a run failed.

    `resources` are those of one task, e.g. ("GPU=1", "CPU=4"). With GPU or TPU a task trains all seeds of a row at
    once, else as many as it has CPUs.
    """
    import ray

    needs, workdir = parse(resources), workdir.absolute()
    devices = None if needs.keys() & {"GPU", "TPU"} else max(int(needs["CPU"]), 1)
    data_dir = options.get("data_dir") and Path(options["data_dir"]).absolute()  # a task has another directory
    options = {**options, "devices": devices, "data_dir": data_dir}
    place: dict[str, Any] = {"num_cpus": needs.pop("CPU"), "num_gpus": needs.pop("GPU", 0), "resources": needs}
    # A process per task, so that one which has ended holds no memory of an accelerator.
    task = ray.remote(**place, max_calls=1, max_retries=RETRIES, retry_exceptions=True)(_train)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end us without a word to the tasks
    at_once = devices or sys.maxsize
    waiting: dict[Any, tuple[Trial, Sequence[int]]] = {}
    last: dict[tuple[str, int], Any] = {}  # (trial, seed) → the task that trains it
    try:
        for trial, seeds in _each_once(wanted):
            pending = [seed for seed in seeds if not records.is_finished(records.run_directory(workdir, trial, seed))]
            for batch in (pending[first : first + at_once] for first in range(0, len(pending), at_once)):
                before = {last.get((trial_id(trial.start_from), seed)) for seed in batch} if trial.start_from else set()
                reference = task.remote(trial, batch, workdir, options, *(before - {None}))
                waiting[reference] = trial, batch
                last |= {(trial_id(trial), seed): reference for seed in batch}
        total = len(waiting)
        there = {name: amount for name, amount in ray.cluster_resources().items() if name.isupper()}
        print(f"{total} tasks with {place}; the cluster has {there}", file=sys.stderr, flush=True)
        while waiting:
            for reference in ray.wait(list(waiting))[0]:
                trial, batch = waiting.pop(reference)
                reason = _reason(ray, reference)
                for seed in batch:
                    records.note_failure(records.run_directory(workdir, trial, seed), reason)
                told = f"{trial_id(trial)}, seeds {', '.join(map(str, batch))}: {reason or 'done'}"
                print(f"{total - len(waiting)}/{total} tasks, {told}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        for reference in waiting:
            ray.cancel(reference)  # a Ctrl-C in the task, after which it saves what it has
        ray.wait(list(waiting), num_returns=len(waiting), timeout=60)
        raise
    finally:
        ray.shutdown()


def parse(resources: Sequence[str]) -> dict[str, float]:
    """("GPU=1",) → {"CPU": 1.0, "GPU": 1.0}; refuses what is none, and where Ray is missing."""
    need("ray", extra="ray")
    needs = {"CPU": 1.0}
    for text in resources:
        name, _, amount = text.partition("=")
        if not name or not amount.replace(".", "", 1).isdecimal():
            raise InputError(f"a resource is a name and a number, e.g. GPU=1; got {text!r}")
        needs[name] = float(amount)
    return needs


def _each_once(wanted: Wanted) -> list[tuple[Trial, list[int]]]:
    """Every trial of all studies with all its seeds, after the one that it starts from."""
    found: dict[str, tuple[Trial, set[int]]] = {}
    for trials, seeds in wanted:
        for trial in runner.phases(trials):
            found.setdefault(trial_id(trial), (trial, set()))[1].update(seeds)
    return [(trial, sorted(seeds)) for trial, seeds in found.values()]


def _train(trial: Trial, seeds: Sequence[int], workdir: Path, options: Mapping[str, Any], *earlier: str) -> str:
    """The task; returns why it was refused, if so: the same again would be refused again."""
    keep_compiled_programs()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            runner.fit(trial, seeds=seeds, workdir=workdir, **options)
            return ""
        except records.Held as error:
            if time.monotonic() > deadline:
                return str(error)
            time.sleep(1)
        except InputError as error:
            return str(error)
        except Preempted:  # which Ray would take for a cancelled task, and not start again
            raise RuntimeError("the node was taken away") from None


def _reason(ray: Any, reference: Any) -> str:
    """Why the task failed, "" where it did not."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {one_line(cause)}"
