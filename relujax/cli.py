"""The command line: list · show · run · watch · report · data. It holds flags and words; the work is others'."""

import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from relujax import bucket, catalog, datasets, obtain, preemption
from relujax.catalog import Studies
from relujax.errors import InputError, need
from relujax.profile import parse_steps
from relujax.study import Entry, Measurement, Study, adapt
from relujax.trial import Trial

FAILED = 1  # exit status: an error stopped some of the runs


@dataclass(frozen=True)
class List:
    """Every study: name, source, rows × runs, and how many of its runs are done in the workdir."""

    workdir: str = "workdir"


@dataclass(frozen=True)
class Show:
    """A study's trials as a table: network, parameters, layers, activation sites, data, recipe, the paper's numbers."""

    study: tyro.conf.Positional[str]
    """A study's name, as in list."""
    time: bool = False
    """Also take a few steps of every row, and say how long the study will take on this device and how long it took."""
    workdir: str = "workdir"
    """Where runs would be that have been trained already."""


@dataclass(frozen=True)
class Run:
    """Train what the workdir does not hold yet, then report; the same command again goes on where it was."""

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Names of studies, as in list; before options that take several words, such as --only."""
    workdir: str = "workdir"
    """Where runs and reports go: a directory, or gs://bucket/path."""
    epochs: int | None = None
    """Train for so many epochs instead of the paper's (a rehearsal)."""
    runs: int | None = None
    """Seeds per row instead of the study's (fewer: a rehearsal)."""
    data: str | None = None
    """Another dataset, e.g. digits, which needs no download, or any that TFDS prepared, e.g. beans@64 (a rehearsal)."""
    data_dir: Path | None = None
    """A TFDS data directory; default: $RELUJAX_DATA or ~/.cache/relujax/data."""
    only: tuple[str, ...] = ()
    """Train only these rows."""
    records: tuple[Path, ...] = ()
    """Folders of records, e.g. results: runs that have ended there are taken over instead of trained again."""
    precision: Literal["float32", "bf16"] = "float32"
    """What networks compute in; parameters and BatchNorm statistics stay float32 (bf16: a rehearsal)."""
    devices: int | None = None
    """Use so many devices instead of all (CPU: virtual ones, by default one per core)."""
    devices_per_run: int | None = None
    """Split each batch over so many devices; default: those that would be idle (CPU: no split)."""
    distributed: bool = False
    """Train together with other processes that run this command: a TPU pod, or a job of Slurm, Open MPI, Kubernetes."""
    coordinator: str | None = None
    """Where none of these is detected: HOST:PORT of process 0, the same in every process."""
    processes: int | None = None
    """With --coordinator: how many processes there are."""
    process: int | None = None
    """With --coordinator: which of them this is, from 0; process 0 writes the workdir."""
    patience: str = "2m"
    """Give up on other processes that do not answer for so long."""
    checkpoint_every: str = "5m"
    """How much training may be lost when the machine is taken away, e.g. 30s, 5m, 1h."""
    calls: Literal["auto", "epoch", "part", "step"] = "auto"
    """How much one call of a compiled program trains; by rule what is faster for the network and device."""
    together: Literal["auto", "vmap", "mixed", "map"] = "auto"
    """How the runs of a device share it: at once, all but convolutions at once, or in turn; by rule what is faster."""
    remat: bool = False
    """Compute blocks again for the gradient instead of keeping what is in them: a third of the memory, more time."""
    profile: str | None = None
    """Trace the steps START:STOP, counted from 0, into WORKDIR/profile (TensorBoard's profiler, xprof, Perfetto)."""
    tensorboard: bool = False
    """Also write TensorBoard events: tensorboard --logdir WORKDIR/tensorboard."""
    launcher: Literal["local", "ray"] = "local"
    """Where the runs train: in this process, or as tasks of a Ray cluster that sees the same workdir."""
    address: str | None = None
    """The Ray cluster, e.g. auto or ray-head:6379; default: this machine."""
    resources: tuple[str, ...] = ()
    """What each Ray task needs, e.g. GPU=1 CPU=4; default: one CPU."""


@dataclass(frozen=True)
class Watch:
    """Every row and run of a workdir while it trains: epochs, loss, time left. Only reads; Ctrl-C ends it."""

    workdir: tyro.conf.Positional[str] = "workdir"
    once: bool = False
    """Show it once and end."""


@dataclass(frozen=True)
class Report:
    """Tables, figures, verdicts and report.html again, from the run directories alone."""

    study: tyro.conf.Positional[str | None] = None
    """Only this study's table on the terminal."""
    workdir: str = "workdir"
    record: Path | None = None
    """Also write each study's small JSON record and its figure into this directory."""


@dataclass(frozen=True)
class DataCommand:
    """Fetch, prepare and verify datasets: `data mnist`, `data all`, `data verify`, `data list`.

    What is there already is only verified; a download that broke off goes on where it was.
    """

    what: tyro.conf.Positional[str]
    """A dataset; all, for those that can be downloaded; verify, to read what is there anew; or list."""
    name: tyro.conf.Positional[str | None] = None
    """With verify: only this dataset."""
    data_dir: Path | None = None
    """A TFDS data directory; default: $RELUJAX_DATA or ~/.cache/relujax/data."""
    mirror: tuple[str, ...] = ()
    """Base addresses to try before the original; a file counts only with the right SHA-256."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Watch, tyro.conf.subcommand("watch")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[DataCommand, tyro.conf.subcommand("data")]
)


def main(studies: Studies, arguments: list[str] | None = None) -> int:
    """Runs one command; 0 done, 1 failed runs, 2 bad input (one line says which), 3 interrupted (the same goes on)."""
    # Whoever takes the machine away sends SIGTERM; before training has begun it is as good as Ctrl-C.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, preemption.Interrupt())
    command = tyro.cli(Command, args=arguments, prog="python -m experiments", description="The papers' studies.")
    try:
        if getattr(command, "workdir", None) == "":
            raise InputError("--workdir must name a directory, . for this one; got ''")
        match command:
            case Run():
                return _run(studies, command)
            case DataCommand(what="list", name=None):
                _print(obtain.listing(command.data_dir), f"here: prepared in {datasets.data_home(command.data_dir)}")
            case DataCommand():
                obtain.obtain(command.what, command.name, command.data_dir, command.mirror)
            case _:
                with bucket.local(command.workdir) as workdir:
                    _read(studies, command, workdir)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(preemption.SAID, file=sys.stderr)
        return preemption.EXIT_STATUS
    return 0


def _read(studies: Studies, command: List | Show | Watch | Report, workdir: Path) -> None:
    match command:
        case List():
            _print(catalog.listing(studies, workdir), f"done: runs that {command.workdir} holds")
        case Show():
            _show(studies, command, workdir)
        case Watch():
            _watch(command, workdir)
        case Report():
            _report(studies, command, workdir)


def _print(table: Table, below: str) -> None:
    Console().print(table)
    Console().print(below, style="dim")


def _seconds(duration: str) -> float:
    """ "30s", "5m" or "1h" in seconds."""
    number, unit = duration[:-1], duration[-1:]
    scale = {"s": 1, "m": 60, "h": 3600}.get(unit)
    if scale is None or not number.replace(".", "", 1).isdecimal():
        raise InputError(f"a duration is a number and s, m or h, e.g. 5m; got {duration!r}")
    return float(number) * scale


def _show(studies: Studies, command: Show, workdir: Path) -> None:
    from relujax.show import show, show_times

    study, console = catalog.find(studies, command.study), Console()
    show(command.study, study, catalog.note(studies[command.study]), console)
    if command.time and isinstance(study, Study):
        show_times(study, workdir, console)
    elif command.time:
        console.print("--time: it is measured in seconds, nothing is trained", style="dim")


def _run(studies: Studies, command: Run) -> int:
    import jax

    from relujax import hosts, launch, report, results, runner, tables
    from relujax.environment import keep_compiled_programs
    from relujax.loop import Options
    from relujax.sharding import one_cpu_device_per_core

    who = (command.coordinator, command.processes, command.process)
    many = command.distributed or who != (None, None, None)
    # Of many processes only the first writes. Others that do not see its folder compile while it does not, and on GPUs
    # wait for it to time kernels with them: for a day.
    if not many:
        keep_compiled_programs()
    need("matplotlib", "jinja2", extra="report")  # before training, not after
    if not command.studies:
        raise InputError("run needs the name of a study, before --only and --resources: see list")
    entries = {name: catalog.find(studies, name) for name in command.studies}
    trains = any(isinstance(study, Study) for study in entries.values())
    data = obtain.named(command.data, command.data_dir) if command.data and trains else None
    entries = {
        name: adapt(study, epochs=command.epochs, runs=command.runs, data=data, precision=command.precision)
        if isinstance(study, Study)
        else study
        for name, study in entries.items()
    }
    options = {
        "data_dir": command.data_dir,
        "devices": command.devices,
        "devices_per_run": command.devices_per_run,
        "tensorboard": command.tensorboard,
        "checkpoint_every": _seconds(command.checkpoint_every),
        "calls": command.calls,
        "together": command.together,
        "remat": command.remat,
        "profile": None if command.profile is None else parse_steps(command.profile),
    }
    wanted: list[tuple[list[Trial], range]] = []
    if command.launcher == "ray":
        if many:
            raise InputError("Ray hands the runs out itself: leave --distributed and its options out")
        if bucket.is_address(command.workdir):
            raise InputError(f"with Ray the workdir must be a folder that all nodes see; got {command.workdir}")
        launch.parse(command.resources)
        jax.config.update("jax_platforms", "cpu")  # the accelerators of this machine are for the tasks
        if command.devices:
            raise InputError("with Ray, --resources says what a task may use: leave --devices out")
    elif command.address or command.resources:
        raise InputError("--address and --resources say where Ray trains: add --launcher ray, or leave them out")
    one_cpu_device_per_core(command.devices)
    with (
        hosts.joined(*who, _seconds(command.patience)) if many else nullcontext(),
        bucket.local(command.workdir, training=True) as workdir,
    ):
        here, how = command.launcher == "local", Options(**options)
        for folder in command.records if hosts.is_first() else ():
            own = [study for study in entries.values() if isinstance(study, Study)]
            taken = sum(results.take_over(study, folder, workdir) for study in own)
            print(f"{taken} run{'s' if taken != 1 else ''} taken over from {folder}", file=sys.stderr)
        for name in runner.begin(entries, workdir=workdir, only=command.only, options=how, here=here):
            study = entries[name]
            if here or isinstance(study, Measurement):
                runner.train(study, name, workdir=workdir, only=command.only, options=how)
            else:
                wanted.append(([study.trials[label] for label in command.only or study.trials], range(study.runs)))
        if wanted:
            launch.train(wanted, workdir=workdir, options=options, address=command.address, resources=command.resources)
    if not hosts.is_first():
        return 0
    console, failures = Console(), []
    with bucket.local(command.workdir) as workdir:
        for name, study in entries.items():
            found = report.read(study, name, workdir)
            console.print(tables.summary(study, found, console.width))
            for label in command.only or found:  # an old failure of another row is not this command's
                failures += [f"{label}, seed {run.seed}: {run.failure}" for run in found.get(label, ()) if run.failure]
        _write_report(studies, _held(studies, workdir), workdir, command.workdir)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def _watch(command: Watch, workdir: Path) -> None:
    from relujax.live import watch

    watch(workdir, once=command.once, shown=command.workdir)


def _report(studies: Studies, command: Report, workdir: Path) -> None:
    from relujax import report, tables

    console, held = Console(), _held(studies, workdir)
    if command.study:
        catalog.find(studies, command.study)
    found = {name: study for name, study in held.items() if command.study in (None, name)}
    if not found:
        raise InputError(f"{command.workdir} holds no run of {command.study or 'any study'}: run one first")
    for name, study in found.items():
        results = report.read(study, name, workdir)
        console.print(tables.summary(study, results, console.width))
        if command.record:
            report.write_record(study, name, results, command.record)
    _write_report(studies, held, workdir, command.workdir)


def _held(studies: Studies, workdir: Path) -> dict[str, Entry]:
    """The studies of which the workdir holds something, as they were run there."""
    return {name: study for name in studies if (study := catalog.as_run(studies, name, workdir))}


def _write_report(studies: Studies, held: Mapping[str, Entry], workdir: Path, shown: str) -> None:
    from relujax import report

    notes = {name: catalog.note(studies[name]) for name in held}
    print(f"report: {shown}/{report.write(held, workdir, notes=notes).name}")
