"""Name → verified uint8 arrays: decoded once from a TFDS data directory, cached, checked at every load.

Canonical order: in a split, examples are sorted by SHA-256(image bytes + label byte). TFDS shuffles records
by a hash of its own keys and the archives have another order, so only an order made of the content gives the
same arrays, the same digest and thus the same runs from every source. It is also as good as a random
permutation, and depends on no random generator that a library may change.

A `large` set keeps the order of its records: TFDS's order, by a hash of the file names, which is as random. Its images
are memory maps in the cache; they are decoded once, which takes hours, and sorting them would be another copy of all.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from relujax.data import Data
from relujax.errors import InputError, check_choice, need, one_line, unknown
from relujax.facts import DATASETS, SPLITS, Facts, Published
from relujax.own import PARTS, Arrays, OwnImages, canonical, digest_of
from relujax.pictures import blocks, write_squares

Progress = Callable[[str, int, int], None]  # (what, done, total)
STATED_DIGEST = "digest.txt"  # beside records that we prepared from archives with the right SHA-256


@dataclass(frozen=True, eq=False)
class Dataset:
    """Both splits in canonical order: images uint8 (N, H, W, C), labels int32 (N,); read-only.

    The images of a `large` set are `np.memmap`s, and in the order of the records. Own images may be float32, 0 … 255.
    """

    name: str
    label: str  # what a report calls it: the name, or "cifar10 (recompressed)", "imagenet2012 (24 + 8 images)"
    num_classes: int
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    digest: str  # SHA-256 of the canonical arrays, hexadecimal


def facts_of(data: Data) -> Facts | OwnImages:
    """What is known of a trial's images before they are read."""
    if data.own is None and data.name not in DATASETS:
        raise unknown("dataset", data.name, DATASETS)
    return data.own or DATASETS[data.name]


def load_images(data: Data, data_dir: Path | None = None) -> Dataset:
    """The verified images of a trial: its own, or those of the dataset that it names (see `load`)."""
    if data.own is None:
        return load(data.name, data_dir)
    if data.own.arrays is None:
        raise InputError(
            f"the images of {data.name!r} are not at hand: make this Data by Data.from_arrays or from_tfds"
        )
    return Dataset(data.name, data.name, data.own.num_classes, **data.own.arrays, digest=data.own.digest)


def load(name: str, data_dir: Path | None = None, *, anew: bool = False, progress: Progress | None = None) -> Dataset:
    """The verified dataset from `data_dir`, $RELUJAX_DATA or ~/.cache/relujax/data; never downloads.

    With `anew` the records are decoded again, whatever the cache holds. Raises InputError where it is unknown, not
    prepared, damaged, or other data under this name.
    """
    check_choice("dataset", name, DATASETS)
    if name == "digits":
        return check(name, _digits(), where="scikit-learn")
    records = records_dir(name, data_dir)
    if not is_prepared(name, data_dir):
        there = "" if data_dir is None else f" --data-dir {data_dir}"
        command = f"python -m experiments data {name}{there}"
        way_out = DATASETS[name].by_hand or f"run `{command}`, or name another --data-dir"
        raise InputError(f"{name} is not prepared in {records}: {way_out}")
    if anew:
        return read(name, records, progress)
    if DATASETS[name].large:
        return _from_maps(name, records)
    cached = cache_home() / "arrays" / f"{name}-{fingerprint(records)[:16]}"
    dataset = _read_cache(name, cached)
    if dataset is None:
        dataset = read(name, records)
        arrays = {part: getattr(dataset, part).astype(np.uint8) for part in PARTS}
        write_arrays(cached, name, dataset.label, arrays, dataset.digest)
    return dataset


def hold_out(dataset: Dataset, validation: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train_images, train_labels, val_images, val_labels): the last `validation` images in canonical order.

    That order is a hash order, so these are a random sample, and the same one for every seed.
    """
    total = len(dataset.train_labels)
    if not 0 <= validation < total:
        rule = f"0 or more and below {total}, the number of training images of {dataset.name}"
        raise InputError(f"validation must be {rule}; got {validation}")
    cut = total - validation
    images, labels = dataset.train_images, dataset.train_labels
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def cache_home() -> Path:
    """$RELUJAX_CACHE, else relujax in $XDG_CACHE_HOME or ~/.cache."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("RELUJAX_CACHE") or users / "relujax").expanduser()


def records_dir(name: str, data_dir: Path | None = None) -> Path:
    """Where the records of `name` lie: TFDS's layout, data_dir/name/version."""
    return data_home(data_dir) / name / DATASETS[name].version


def is_prepared(name: str, data_dir: Path | None = None) -> bool:
    """Whether the records of `name` are there; nothing is read."""
    return name == "digits" or (records_dir(name, data_dir) / "dataset_info.json").is_file()


def data_home(data_dir: Path | None = None) -> Path:
    """`data_dir`, $RELUJAX_DATA or ~/.cache/relujax/data."""
    return Path(data_dir or os.environ.get("RELUJAX_DATA") or cache_home() / "data").expanduser()


def read(name: str, records: Path, progress: Progress | None = None) -> Dataset:
    """The verified dataset of a TFDS record directory, past the cache; of a large one the cached maps, every byte."""
    if DATASETS[name].large:
        return _from_maps(name, records, every_byte=True, progress=progress)
    dataset = check(name, decode(name, records), where=records)
    path = records / STATED_DIGEST
    stated = path.read_text(errors="replace").strip() if path.is_file() else dataset.digest
    if stated != dataset.digest:
        raise InputError(f"{records} was altered: SHA-256 of the arrays expected {stated}, got {dataset.digest}")
    return dataset


def decode(name: str, records: Path) -> Arrays:
    """The arrays of a TFDS record directory, in record order; neither checked nor sorted yet."""
    need("PIL", extra="data")
    from PIL import Image

    height, width, channels = shape = DATASETS[name].shape

    def pixels(encoded: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.size != (width, height) or len(image.getbands()) != channels:  # known before decoding
                raise ValueError(f"an image has size {image.size} and mode {image.mode}")
            return np.asarray(image, np.uint8).reshape(shape)

    arrays = {}
    with sources_of(name, records, DATASETS[name].splits) as sources:
        for split, source in sources.items():
            examples = [(pixels(example["image"]), example["label"]) for block in blocks(source) for example in block]
            images, labels = zip(*examples)
            arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": np.array(labels, np.int64)}
    return arrays


@contextmanager
def sources_of(name: str, records: Path, splits: tuple[str, str], image: str = "image") -> Iterator[dict[str, Any]]:
    """Both splits as TFDS data sources with encoded images; what goes wrong while they are read is an InputError."""
    need("tensorflow_datasets", "array_record", extra="data")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(records)
        # Decoded here: TFDS would take OpenCV where it is installed, and JPEG decoders differ.
        decoders = {image: tfds.decode.SkipDecoding()}
        yield {
            split: builder.as_data_source(theirs, decoders=decoders)  # pyright: ignore[reportCallIssue]
            for split, theirs in zip(SPLITS, splits)
        }
    except InputError:
        raise
    except Exception as error:  # TFDS, array_record, Pillow and the OS each raise their own
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{name} in {records} cannot be read: {reason}") from error


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits until no other process holds `lock`; the system lets go of it when a process ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _from_maps(name: str, records: Path, *, every_byte: bool = False, progress: Progress | None = None) -> Dataset:
    """A large dataset from its memory maps, which are decoded first where they are missing or damaged.

    Only with `every_byte` are all of them read and compared with their digest: that takes minutes.
    """
    cached = cache_home() / "arrays" / f"{name}-{fingerprint(records, large=True)[:16]}"
    dataset = _read_cache(name, cached, large=True, every_byte=every_byte)
    if dataset is None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with alone(cache_home() / f"{name}.lock"):
            dataset = _read_cache(name, cached, large=True)  # another process may have decoded them meanwhile
            if dataset is None:
                _write_maps(name, records, cached, progress or (lambda *step: None))
                dataset = _read_cache(name, cached, large=True)
    if dataset is None:
        raise InputError(f"{cached} was damaged as soon as it was written: set RELUJAX_CACHE to another disk")
    return dataset


def _write_maps(name: str, records: Path, cached: Path, progress: Progress) -> None:
    """Decodes the records of a large dataset, one example after the other, into the cache."""
    facts = DATASETS[name]
    with sources_of(name, records, facts.splits) as sources, whole_or_not_at_all(cached, name) as partial:
        sizes = {split: len(source) for split, source in sources.items()}
        needed, free = sum(sizes.values()) * prod(facts.shape), shutil.disk_usage(partial).free
        if needed > free:
            raise InputError(
                f"{name} takes {needed / 1e9:.0f} GB in {cached.parent}, which has {free / 1e9:.0f} GB left: "
                "set RELUJAX_CACHE to a folder with more room"
            )
        logging.getLogger(__name__).warning("%s is decoded once, into %s: this may take hours", name, cached)
        for split, source in sources.items():
            images = partial / f"{split}_images.npy"
            labels = write_squares(
                images, source, facts.shape[0], lambda *step, what=f"{split} images": progress(what, *step)
            )
            if not (labels.size and 0 <= labels.min() <= labels.max() < facts.num_classes):
                found = f"{labels.min()} to {labels.max()}" if labels.size else "none"
                raise InputError(f"{records}: {split} labels expected 0 to {facts.num_classes - 1}, got {found}")
            np.save(partial / f"{split}_labels.npy", labels, allow_pickle=False)
        official = sizes == {"train": facts.train, "test": facts.test}
        label = name if official else f"{name} ({sizes['train']:,} + {sizes['test']:,} images)"
        _write_manifest(partial, name, label, digest_of(_load_parts(partial, large=True)))


def check(name: str, arrays: Arrays, *, where: object) -> Dataset:
    """Arrays in any order → the verified dataset, or InputError with the expected and the actual fact."""
    facts = DATASETS[name]

    def require(what: str, expected: object, actual: object, equal: bool | None = None) -> None:
        if not (expected == actual if equal is None else equal):
            raise InputError(f"{where} does not hold {name}: {what} expected {expected}, got {actual}")

    ordered = {}
    for split, count in zip(SPLITS, (facts.train, facts.test)):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        require(f"{split} images", (count, *facts.shape, "uint8"), (*images.shape, str(images.dtype)))
        require(f"{split} labels", (count,), labels.shape)
        low, high = labels.min(), labels.max()
        valid = 0 <= low <= high < facts.num_classes
        require(f"{split} labels", f"0 to {facts.num_classes - 1}", f"{low} to {high}", valid)
        pair = canonical(images, labels.astype(np.uint8))
        ordered |= dict(zip((f"{split}_images", f"{split}_labels"), pair))
    digest = digest_of(ordered)
    if digest in facts.labels:
        return _dataset(name, facts.labels[digest], ordered, digest)
    if facts.published is None:
        require("SHA-256 of the arrays", " or ".join(facts.labels), digest)
    else:
        _require_published(facts, facts.published, ordered, require)
    return _dataset(name, name, ordered, digest)


def _require_published(facts: Facts, published: Published, arrays: Arrays, require: Callable) -> None:
    """The facts that do not depend on order: class sizes, mean and std of the training pixels."""
    for split, count in zip(SPLITS, (facts.train, facts.test)):
        sizes = np.bincount(arrays[f"{split}_labels"], minlength=facts.num_classes)
        expected = count // facts.num_classes
        require(f"{split} images per class", expected, sizes.tolist(), bool((sizes == expected).all()))
    pixels = arrays["train_images"].reshape(-1, facts.shape[-1])
    mean = pixels.mean(0, dtype=np.float64)
    # In parts: the squares of all CIFAR pixels would take 1.2 GB.
    squares = sum(np.square(part, dtype=np.float64).sum(0) for part in np.array_split(pixels, 100))
    std = np.sqrt(squares / len(pixels) - mean**2)
    for what, printed, exact in (("mean", published.mean, mean), ("std", published.std, std)):
        actual = exact * published.white / 255
        # One unit in the last place: the authors rounded sums of float32.
        near = bool((np.abs(actual - printed) <= 1.01 * 10**-published.decimals).all())
        rounded = tuple(actual.round(published.decimals).tolist())
        require(f"{what} of the training pixels ({published.source})", printed, rounded, near)


def _dataset(name: str, label: str, arrays: Arrays, digest: str) -> Dataset:
    ordered = [arrays[part].astype(np.int32) if part.endswith("labels") else arrays[part] for part in PARTS]
    for array in ordered:
        array.flags.writeable = False  # what was verified stays so
    return Dataset(name, label, DATASETS[name].num_classes, *ordered, digest=digest)


def _digits() -> Arrays:
    """scikit-learn's 1,797 digits, 8×8 with values 0 … 16, as MNIST lays them out: 20×20 in a frame of 28×28.

    Bilinear in integers, so that no library's rounding can change the digest.
    """
    need("sklearn", extra="data")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    tenths = 4 * np.arange(20) - 3  # ten times the place of each target pixel's centre, in source pixels
    distance = np.abs(np.clip(tenths, 0, 70)[:, None] - 10 * np.arange(8))
    weights = np.maximum(0, 10 - distance)  # (20, 8), rows sum to 10
    large = weights @ pixels.reshape(-1, 8, 8).astype(np.int64) @ weights.T  # (N, 20, 20), 0 … 1600
    images = np.pad((large * 255 + 800) // 1600, ((0, 0), (4, 4), (4, 4))).astype(np.uint8)[..., None]
    images, labels = canonical(images, labels.astype(np.uint8))
    cut = DATASETS["digits"].train
    return dict(zip(PARTS, (images[:cut], labels[:cut], images[cut:], labels[cut:])))


def fingerprint(records: Path, *, large: bool = False) -> str:
    """SHA-256 over names and bytes of the record files: a changed source has another cache entry.

    Of a large set names and sizes have to do: compressed shards that differ hardly ever have the same size.
    """
    sha = hashlib.sha256()
    try:
        for path in sorted(records.iterdir()):
            if path.is_file():
                sha.update(f"{path.name} {path.stat().st_size if large else file_sha256(path)}\n".encode())
    except OSError as error:
        raise InputError(f"{records} cannot be read: {error}") from error
    return sha.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_cache(name: str, cached: Path, *, large: bool = False, every_byte: bool = True) -> Dataset | None:
    found = read_arrays(cached, large=large, every_byte=every_byte)
    return None if found is None else _dataset(name, *found)


def read_arrays(cached: Path, *, large: bool = False, every_byte: bool = True) -> tuple[str, Arrays, str] | None:
    """Label, arrays and digest of a cache that is whole and, if `every_byte` is read, has its manifest's digest."""
    try:
        manifest = json.loads((cached / "manifest.json").read_text())
        arrays = _load_parts(cached, large=large)
        if every_byte and digest_of(arrays) != manifest["digest"]:
            return None
        return manifest["label"], arrays, manifest["digest"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _load_parts(cached: Path, *, large: bool) -> Arrays:
    def array(part: str) -> np.ndarray:
        mode = "r" if large and part.endswith("images") else None
        return np.load(cached / f"{part}.npy", mmap_mode=mode, allow_pickle=False)

    return {part: array(part) for part in PARTS}


def write_arrays(cached: Path, name: str, label: str, arrays: Arrays, digest: str) -> None:
    """Fills a cache for `read_arrays`; one that cannot be written costs time, not the run."""
    try:
        with whole_or_not_at_all(cached, name) as partial:
            for part, array in arrays.items():
                np.save(partial / f"{part}.npy", array, allow_pickle=False)
            _write_manifest(partial, name, label, digest)
    except OSError as error:
        logging.getLogger(__name__).warning("the decoded arrays are not cached: %s", error)


def _write_manifest(partial: Path, name: str, label: str, digest: str) -> None:
    manifest = {"name": name, "label": label, "digest": digest}
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))


@contextmanager
def whole_or_not_at_all(cached: Path, name: str) -> Iterator[Path]:
    """A folder to fill, which takes the place of `cached` when all went well."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    sweep(cached.parent, name)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cached.parent, ignore_cleanup_errors=True) as made:
        partial = Path(made)
        yield partial
        shutil.rmtree(cached, ignore_errors=True)  # a damaged one, or another process's of this moment
        partial.replace(cached)


def sweep(home: Path, name: str) -> None:
    """Remove what a killed process left a day ago or more."""
    for left in home.glob(f".{name}-*"):
        if left.is_dir() and time.time() - left.stat().st_mtime > 86_400:
            shutil.rmtree(left, ignore_errors=True)
