"""Datasets as a person asks for them by name: fetched, prepared, verified, listed, with a bar for what takes long."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import TaskID
from rich.table import Column, Table

from relujax import datasets
from relujax.data import Data
from relujax.errors import InputError, unknown
from relujax.from_tfds import from_tfds


@contextmanager
def bars() -> Iterator[datasets.Progress]:
    """A bar for each thing that is downloaded, written or read."""
    from rich.progress import Progress

    shown, tasks = Progress(console=Console(stderr=True), transient=True), dict[str, TaskID]()
    with ExitStack() as stack:

        def show(what: str, done: int, total: int | None) -> None:
            if not tasks:  # where nothing is to be done, nothing is printed
                stack.enter_context(shown)
            if what not in tasks:
                tasks[what] = shown.add_task(what)
            shown.update(tasks[what], completed=done, total=total)

        yield show


def named(name: str, data_dir: Path | None) -> str | Data:
    """The dataset of this name: one of the papers', or any that TFDS has prepared."""
    if name in datasets.DATASETS:
        return name
    with bars() as show:
        return from_tfds(name, data_dir, show)


def obtain(what: str, second: str | None, data_dir: Path | None, mirrors: Sequence[str]) -> None:
    """Prepares the dataset `what`, or "all" of them, or does "verify" (of `second` alone); prints what each then is."""
    from relujax import download

    match what, second:
        case "verify", None | "all":
            names = [name for name in datasets.DATASETS if datasets.is_prepared(name, data_dir)]
        case "all", None:
            names = ["digits", *download.NAMES]
        case ("verify", str(name)) | (name, None):
            names = [name]
        case _:
            raise InputError(f"only verify takes a second word; got data {what} {second}")
    if names[0] not in datasets.DATASETS:
        words = ["all"] if what == "verify" else ["all", "list", "verify"]
        raise unknown("dataset", names[0], [*datasets.DATASETS, *words])
    failures = []
    for name in names:
        try:
            with bars() as show:
                if what != "verify" and name != "digits":  # which come with scikit-learn
                    download.prepare(name, data_dir, mirrors=mirrors, progress=show)
                anew = what == "verify"
                dataset = datasets.load(name, data_dir, anew=anew, progress=show)
        except InputError as error:  # one set that cannot be had is no reason to go without the others
            failures.append(f"{name}: {error}")
        else:
            _describe(dataset)
    if failures:
        raise InputError("\nerror: ".join(failures))


def _describe(dataset: datasets.Dataset) -> None:
    facts = datasets.DATASETS[dataset.name]
    shape = " × ".join(map(str, facts.shape))
    print(f"{dataset.label}: {len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images")
    print(f"  {shape} pixels, {dataset.num_classes} classes; licence: {facts.licence}; {facts.page}")
    print(f"  SHA-256 of the arrays: {dataset.digest}")


def listing(data_dir: Path | None) -> Table:
    """Every dataset, and whether it is prepared here."""
    columns = [Column(title, no_wrap=True) for title in ("dataset", "images", "pixels", "classes", "size", "here")]
    table = Table(*columns, box=SIMPLE)
    for name, facts in datasets.DATASETS.items():
        pixels = "×".join(map(str, facts.shape))
        size = f"{facts.megabytes} MB" if facts.megabytes < 1000 else f"{facts.megabytes // 1000} GB"
        here = "yes" if datasets.is_prepared(name, data_dir) else "no"
        images = f"{facts.train:,} + {facts.test:,}"
        table.add_row(name, images, pixels, str(facts.num_classes), size, here)
    return table
