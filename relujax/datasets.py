"""Name → verified uint8 arrays: decoded once from a TFDS data directory, cached, checked at every load.

Canonical order: in a split, examples are sorted by SHA-256(image bytes + label byte). TFDS shuffles records
by a hash of its own keys and the archives have another order, so only an order made of the content gives the
same arrays, the same digest and thus the same runs from every source. It is also as good as a random
permutation, and depends on no random generator that a library may change.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from relujax.errors import InputError, unknown

Arrays = dict[str, np.ndarray]  # SPLITS × (images, labels), all uint8
SPLITS = ("train", "test")
STATED_DIGEST = "digest.txt"  # beside records that we prepared from archives with the right SHA-256
PARTS = tuple(f"{split}_{part}" for split in SPLITS for part in ("images", "labels"))


@dataclass(frozen=True)
class Published:
    """Mean and std of the training pixels for each channel as printed in `source`, where white is `white`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float
    decimals: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a dataset before it is read; the defaults are those of MNIST and its replacements."""

    shape: tuple[int, int, int] = (28, 28, 1)  # (H, W, C)
    train: int = 60_000
    test: int = 10_000
    num_classes: int = 10
    version: str = "3.0.1"  # of the TFDS builder
    megabytes: int  # to download
    page: str
    licence: str
    labels: Mapping[str, str] = field(default_factory=dict)  # digest → what a report calls the dataset
    published: Published | None = None  # decides where the digest is not known; all classes are of one size then


CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
FUSENET = "github.com/zlmzju/fusenet"

DATASETS = {
    "digits": Facts(
        train=1437,
        test=360,
        version="scikit-learn",
        megabytes=0,
        page="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence="CC BY 4.0",
        labels={"490e7c2bb07745e77a5b7c8c71b501b7000b2d7b1d05b530dc71e96fea4b9c35": "digits"},
    ),
    "mnist": Facts(
        megabytes=12,
        page="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0",
        labels={"6cf27fd96beea04e3747df06a2f8935dcaedd0720b4a63c18328ffd380a94d6c": "mnist"},
    ),
    "fashion_mnist": Facts(
        megabytes=31,
        page="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        published=Published((0.2860,), (0.3530,), 1, 4, "usual normalisation of Fashion-MNIST"),
    ),
    "kmnist": Facts(
        megabytes=21,
        page="http://codh.rois.ac.jp/kmnist/index.html.en",
        licence="CC BY-SA 4.0",
        published=Published((0.1918,), (0.3483,), 1, 4, "usual normalisation of KMNIST"),
    ),
    "cifar10": Facts(
        shape=(32, 32, 3),
        train=50_000,
        version="3.0.2",
        megabytes=170,
        page=CIFAR_PAGE,
        licence="none stated",
        # Known by their digest: the official pictures after JPEG; good for rehearsals only.
        labels={"ebd4161ee786033f7061ea3cfcb7d09530ecaec999b0c527246be6fe6e3e7fba": "cifar10 (recompressed)"},
        published=Published((125.307, 122.950, 113.865), (62.993, 62.089, 66.705), 255, 3, FUSENET),
    ),
    "cifar100": Facts(
        shape=(32, 32, 3),
        train=50_000,
        num_classes=100,
        version="3.0.2",
        megabytes=169,
        page=CIFAR_PAGE,
        licence="none stated",
        published=Published((129.304, 124.070, 112.434), (68.170, 65.392, 70.418), 255, 3, FUSENET),
    ),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Both splits in canonical order: images uint8 (N, H, W, C), labels int32 (N,); read-only."""

    name: str
    label: str  # what a report calls it: the name, or "cifar10 (recompressed)"
    num_classes: int
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    digest: str  # SHA-256 of the canonical arrays, hexadecimal


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """The verified dataset from `data_dir`, $RELUJAX_DATA or ~/.cache/relujax/data; never downloads.

    Raises InputError where it is unknown, not prepared, damaged, or other data under this name.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    if name == "digits":
        return check(name, _digits(), where="scikit-learn")
    records = records_dir(name, data_dir)
    if not (records / "dataset_info.json").is_file():
        raise InputError(
            f"{name} is not prepared in {records}: run `python -m experiments data {name}`, or name another --data-dir"
        )
    cached = cache_home() / "arrays" / f"{name}-{_fingerprint(records)[:16]}"
    dataset = _read_cache(name, cached)
    if dataset is None:
        dataset = read(name, records)
        _write_cache(dataset, cached)
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
    """$RELUJAX_CACHE or ~/.cache/relujax."""
    return Path(os.environ.get("RELUJAX_CACHE") or "~/.cache/relujax").expanduser()


def records_dir(name: str, data_dir: Path | None = None) -> Path:
    """Where the records of `name` lie: TFDS's layout, data_dir/name/version."""
    home = data_dir or os.environ.get("RELUJAX_DATA") or cache_home() / "data"
    return Path(home).expanduser() / name / DATASETS[name].version


def read(name: str, records: Path) -> Dataset:
    """The verified dataset of a TFDS record directory, past the cache."""
    dataset = check(name, decode(name, records), where=records)
    path = records / STATED_DIGEST
    stated = path.read_text(errors="replace").strip() if path.is_file() else dataset.digest
    if stated != dataset.digest:
        raise InputError(f"{records} was altered: SHA-256 of the arrays expected {stated}, got {dataset.digest}")
    return dataset


def decode(name: str, records: Path) -> Arrays:
    """The arrays of a TFDS record directory, in record order; neither checked nor sorted yet."""
    import tensorflow_datasets as tfds
    from PIL import Image

    height, width, channels = shape = DATASETS[name].shape

    def pixels(encoded: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.size != (width, height) or len(image.getbands()) != channels:  # known before decoding
                raise ValueError(f"an image has size {image.size} and mode {image.mode}")
            return np.asarray(image, np.uint8).reshape(shape)

    arrays = {}
    try:
        builder = tfds.builder_from_directory(records)
        for split in SPLITS:
            # Decoded here: TFDS would take OpenCV where it is installed, and JPEG decoders differ.
            decoders = {"image": tfds.decode.SkipDecoding()}
            source = builder.as_data_source(split, decoders=decoders)  # pyright: ignore[reportCallIssue]
            examples = [(pixels(example["image"]), example["label"]) for example in source]
            images, labels = zip(*examples)
            arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": np.array(labels, np.int64)}
    except Exception as error:  # TFDS, array_record, Pillow and the OS each raise their own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name} in {records} cannot be read: {type(error).__name__}: {reason}") from error
    return arrays


def check(name: str, arrays: Arrays, *, where: object) -> Dataset:
    """Arrays in any order → the verified dataset, or InputError with the expected and the actual fact."""
    facts = DATASETS[name]

    def require(what: str, expected: object, actual: object, equal: bool | None = None) -> None:
        if not (expected == actual if equal is None else equal):
            raise InputError(f"{where} does not hold {name}: {what} expected {expected}, got {actual}")

    canonical = {}
    for split, count in zip(SPLITS, (facts.train, facts.test)):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        require(f"{split} images", (count, *facts.shape, "uint8"), (*images.shape, str(images.dtype)))
        require(f"{split} labels", (count,), labels.shape)
        low, high = labels.min(), labels.max()
        valid = 0 <= low <= high < facts.num_classes
        require(f"{split} labels", f"0 to {facts.num_classes - 1}", f"{low} to {high}", valid)
        pair = _canonical(images, labels.astype(np.uint8))
        canonical |= dict(zip((f"{split}_images", f"{split}_labels"), pair))
    digest = _digest(canonical)
    if digest in facts.labels:
        return _dataset(name, facts.labels[digest], canonical, digest)
    if facts.published is None:
        require("SHA-256 of the arrays", " or ".join(facts.labels), digest)
    else:
        _require_published(facts, facts.published, canonical, require)
    return _dataset(name, name, canonical, digest)


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


def _canonical(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in the order of SHA-256(image bytes + label byte)."""
    contents = (image.tobytes() + label.tobytes() for image, label in zip(images, labels))
    keys = [hashlib.sha256(content).digest() for content in contents]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return images[order], labels[order]


def _digest(arrays: Arrays) -> str:
    """SHA-256 over name, shape and bytes of the four uint8 arrays."""
    sha = hashlib.sha256()
    for part in PARTS:
        sha.update(f"{part} {arrays[part].shape}\n".encode())
        sha.update(np.ascontiguousarray(arrays[part]).data)
    return sha.hexdigest()


def _dataset(name: str, label: str, arrays: Arrays, digest: str) -> Dataset:
    ordered = [arrays[part].astype(np.int32) if part.endswith("labels") else arrays[part] for part in PARTS]
    for array in ordered:
        array.flags.writeable = False  # what was verified stays so
    return Dataset(name, label, DATASETS[name].num_classes, *ordered, digest=digest)


def _digits() -> Arrays:
    """scikit-learn's 1,797 digits, 8×8 with values 0 … 16, as MNIST lays them out: 20×20 in a frame of 28×28.

    Bilinear in integers, so that no library's rounding can change the digest.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    tenths = 4 * np.arange(20) - 3  # ten times the place of each target pixel's centre, in source pixels
    distance = np.abs(np.clip(tenths, 0, 70)[:, None] - 10 * np.arange(8))
    weights = np.maximum(0, 10 - distance)  # (20, 8), rows sum to 10
    large = weights @ pixels.reshape(-1, 8, 8).astype(np.int64) @ weights.T  # (N, 20, 20), 0 … 1600
    images = np.pad((large * 255 + 800) // 1600, ((0, 0), (4, 4), (4, 4))).astype(np.uint8)[..., None]
    images, labels = _canonical(images, labels.astype(np.uint8))
    cut = DATASETS["digits"].train
    return dict(zip(PARTS, (images[:cut], labels[:cut], images[cut:], labels[cut:])))


def _fingerprint(records: Path) -> str:
    """SHA-256 over names and bytes of the record files: a changed source has another cache entry."""
    sha = hashlib.sha256()
    try:
        for path in sorted(records.iterdir()):
            if path.is_file():
                sha.update(f"{path.name} {file_sha256(path)}\n".encode())
    except OSError as error:
        raise InputError(f"{records} cannot be read: {error}") from error
    return sha.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_cache(name: str, cached: Path) -> Dataset | None:
    """The cached arrays where they are whole and have the digest of their manifest, else None."""
    try:
        manifest = json.loads((cached / "manifest.json").read_text())
        arrays = {part: np.load(cached / f"{part}.npy", allow_pickle=False) for part in PARTS}
        digest = _digest(arrays)
        return _dataset(name, manifest["label"], arrays, digest) if digest == manifest["digest"] else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write_cache(dataset: Dataset, cached: Path) -> None:
    """Whole or not at all; a cache that cannot be written costs time, not the run."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=cached.parent, ignore_cleanup_errors=True) as made:
            partial = Path(made)
            for part in PARTS:
                array = getattr(dataset, part).astype(np.uint8)
                np.save(partial / f"{part}.npy", array, allow_pickle=False)
            manifest = {"name": dataset.name, "label": dataset.label, "digest": dataset.digest}
            (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
            shutil.rmtree(cached, ignore_errors=True)  # a damaged one, or another process's of this moment
            partial.replace(cached)
    except OSError as error:
        logging.getLogger(__name__).warning("the decoded arrays are not cached: %s", error)
