"""Fetch, prepare and verify the originals without TensorFlow; the result is a TFDS data directory.

URL, size and SHA-256 come from the registry inside TFDS. Nothing is parsed before its SHA-256 is right, nothing is
extracted to disk, and what is prepared appears under its name only when it is complete.
"""

import contextlib
import gzip
import http.client
import importlib.resources
import io
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import rmtree

import numpy as np

from relujax.datasets import (
    DATASETS,
    SPLITS,
    STATED_DIGEST,
    Dataset,
    Progress,
    alone,
    check,
    file_sha256,
    read,
    records_dir,
    sweep,
)
from relujax.errors import InputError, need, unknown

Columns = dict[str, np.ndarray]  # images and, named as in TFDS, every label
NAMES = tuple(name for name, facts in DATASETS.items() if name != "digits" and not facts.by_hand)
IDX_PREFIX = {"train": "train", "test": "t10k"}
BINARIES = {
    "cifar10": {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    "cifar100": {"train": ("train.bin",), "test": ("test.bin",)},
}
LABEL_COLUMNS = {"cifar10": ("label",), "cifar100": ("coarse_label", "label")}
SLACK = 1 << 20  # bytes for headers and the text files of an archive
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Source:
    """One original file."""

    url: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        return PurePosixPath(self.url).name


def sources(name: str) -> tuple[Source, ...]:
    """What TFDS has registered for its builder of `name`: lines of url, size, SHA-256, file name."""
    need("tensorflow_datasets", extra="data")
    # The builder classes themselves need TensorFlow.
    registry = importlib.resources.files("tensorflow_datasets") / "url_checksums" / f"{name}.txt"
    rows = [line.split("\t") for line in registry.read_text().splitlines() if line.strip()]
    return tuple(Source(url, int(size), sha256) for url, size, sha256, *_ in rows)


def prepare(
    name: str,
    data_dir: Path | None = None,
    *,
    mirrors: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Download what is missing and write the records to data_dir/name/version; returns that folder.

    `mirrors` are base URLs, tried before the official one; files already in data_dir/downloads/name are used.
    Raises InputError where no source has the right file or the data are not those of `name`.
    """
    if name == "digits":
        raise InputError("digits comes with scikit-learn: there is nothing to prepare")
    if name not in DATASETS:
        raise unknown("dataset", name, NAMES)
    target = records_dir(name, data_dir)
    home = target.parent.parent
    progress = progress or (lambda what, done, total: None)
    if DATASETS[name].by_hand:
        if not (target / "dataset_info.json").is_file():
            raise InputError(f"{name} cannot be downloaded: {DATASETS[name].by_hand}")
        read(name, target, progress)
        return target
    try:
        if target.exists():
            with contextlib.suppress(InputError):
                read(name, target)
                return target
            _set_aside(target)
        home.mkdir(parents=True, exist_ok=True)
        sweep(home, name)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home, ignore_cleanup_errors=True) as made:
            work = Path(made)
            downloads = home / "downloads" / name
            for source in sources(name):
                fetch(source, downloads, mirrors, progress)
            columns = {split: _originals(name, split, downloads) for split in SPLITS}
            dataset = _check(name, columns, downloads)
            _write_records(name, columns, work, progress)
            made_records = work / name / DATASETS[name].version
            (made_records / STATED_DIGEST).write_text(dataset.digest + "\n")
            read(name, made_records)  # as any later reader will
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                made_records.replace(target)
            except OSError:
                if not target.exists():
                    raise
                read(name, target)  # another process was first: its copy has to be right as well
        return target
    except OSError as error:
        raise InputError(f"{name} cannot be prepared in {home}: {error}") from error


def fetch(source: Source, downloads: Path, mirrors: Sequence[str], progress: Progress) -> None:
    """Put `source` into `downloads`, from there or from the first place that has it with the right SHA-256.

    What has come of it so far is kept as *.partial, wherever it came from, and the next try goes on there; a wrong file
    is kept as *.refused. A second process waits for the first.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    target, partial = downloads / source.filename, downloads / f"{source.filename}.partial"
    failures = []
    with alone(downloads / f"{source.filename}.lock"):
        if target.exists():
            if wrong := _wrong(source, target):
                failures.append(f"{target}: {wrong}")
                _set_aside(target)
            else:
                return
        for url in [f"{mirror.rstrip('/')}/{source.filename}" for mirror in mirrors] + [source.url]:
            if failure := _fetch_from(url, source, partial, progress):
                failures.append(f"{url}: {failure}")
            else:
                partial.replace(target)
                return
    raise InputError(
        f"{source.filename} was not found: {'; '.join(failures)}. "
        f"Name another mirror, or put the right file into {downloads}"
    )


def _fetch_from(url: str, source: Source, partial: Path, progress: Progress) -> str:
    """Completes `partial` from `url`; why that was not possible, or nothing."""
    from_elsewhere = partial.exists()
    while True:
        begun = _size(partial)
        if begun < source.size:
            try:
                _download(url, partial, source, progress)
            except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
                broken = str(error)
            else:
                broken = ""
            size = _size(partial)
            if begun < size < source.size:  # some places break off often
                continue
            if size < source.size:
                return broken or f"ended after {size} of {source.size} bytes"
        wrong = _wrong(source, partial)
        if not wrong:
            return ""
        partial.replace(partial.with_name(f"{source.filename}.refused"))
        if not from_elsewhere:
            return wrong
        from_elsewhere = False  # its beginning may be of another file: all of it from here, then


def _download(url: str, partial: Path, source: Source, progress: Progress) -> None:
    """Goes on where `partial` ends, if the server can; else from the beginning."""
    done = _size(partial)
    headers = {"User-Agent": "relujax"} | ({"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            done = 0
        offered = response.headers.get("Content-Length")
        if offered is not None and int(offered) != source.size - done:
            raise ValueError(f"another file: {done + int(offered)} bytes, expected {source.size}")
        with partial.open("ab" if done else "wb") as file:
            # One byte too many is enough to know that the file is wrong.
            while done <= source.size and (block := response.read(min(1 << 18, source.size + 1 - done))):
                file.write(block)
                done += len(block)
                progress(source.filename, done, source.size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _wrong(source: Source, path: Path) -> str:
    """Why `path` is not `source`, or nothing."""
    actual = file_sha256(path)
    if actual == source.sha256:
        return ""
    size = _size(path)
    got = f"more than {source.size}" if size > source.size else f"{size}"
    return f"SHA-256 expected {source.sha256} ({source.size} bytes), got {actual} ({got} bytes)"


def _set_aside(path: Path) -> None:
    refused = path.with_name(f"{path.name}.refused")
    if refused.is_dir():
        rmtree(refused)
    path.replace(refused)


def _check(name: str, columns: dict[str, Columns], where: Path) -> Dataset:
    arrays = {}
    for split, data in columns.items():
        arrays |= {f"{split}_images": data["image"], f"{split}_labels": data["label"]}
    return check(name, arrays, where=where)


def _originals(name: str, split: str, downloads: Path) -> Columns:
    """The examples of a split in the order of the original files."""
    facts = DATASETS[name]
    count = facts.train if split == "train" else facts.test
    if name in BINARIES:
        labels = LABEL_COLUMNS[name]
        size = len(labels) + int(np.prod(facts.shape))
        (archive,) = (downloads / source.filename for source in sources(name))
        rows = np.frombuffer(read_tar(archive, BINARIES[name][split], count * size), np.uint8).reshape(-1, size)
        height, width, channels = facts.shape
        pixels = rows[:, len(labels) :].reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        return {"image": np.ascontiguousarray(pixels)} | {key: rows[:, i] for i, key in enumerate(labels)}
    prefix = downloads / IDX_PREFIX[split]
    return {
        "image": read_idx(Path(f"{prefix}-images-idx3-ubyte.gz"), (count, *facts.shape[:2]))[..., None],
        "label": read_idx(Path(f"{prefix}-labels-idx1-ubyte.gz"), (count,)),
    }


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array of a gzipped IDX file (yann.lecun.com/exdb/mnist), which must have this shape."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    expected = len(header) + int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            content = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a whole gzip file: {error}") from error
    if len(content) != expected or not content.startswith(header):
        raise InputError(
            f"{path}: expected {expected} bytes that begin with {header.hex()}, "
            f"got {len(content)} that begin with {content[: len(header)].hex()}"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


class _Bounded(io.RawIOBase):
    """Reads `file` up to `limit` bytes and then refuses, whatever the archive says of its members."""

    def __init__(self, file, limit: int):
        self.file, self.left = file, limit

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise InputError("it unpacks to more than the original does")
        return block


def read_tar(path: Path, wanted: Sequence[str], size: int, limit: int = 1 << 28) -> bytes:
    """The members named `wanted`, one after the other, `size` bytes in all, from a tar.gz; nothing is written.

    Raises InputError for links, devices, absolute paths, "..", repeated names, or more than `limit` bytes.
    """
    found: dict[str, bytes] = {}
    seen = set()
    try:
        with gzip.open(path) as file, tarfile.open(fileobj=_Bounded(file, limit), mode="r|") as tar:
            for member in tar:
                place = PurePosixPath(member.name.replace("\\", "/"))
                if place.is_absolute() or ".." in place.parts or ":" in member.name:
                    raise InputError(f"member {member.name!r} points outside")
                if not (member.isreg() or member.isdir()):
                    raise InputError(f"member {member.name!r} is neither a file nor a folder")
                if place in seen or place.name in found:
                    raise InputError(f"member {member.name!r} comes twice")
                if member.size > size + SLACK:
                    raise InputError(f"member {member.name!r} has {member.size} bytes")
                seen.add(place)
                if place.name in wanted and (opened := tar.extractfile(member)):  # None for a folder
                    found[place.name] = opened.read()
        content = b"".join(found[name] for name in wanted)
        if len(content) != size:
            raise InputError(f"{', '.join(wanted)}: expected {size} bytes, got {len(content)}")
    except KeyError as error:
        raise InputError(f"{path} lacks {error}") from error
    except (OSError, EOFError, zlib.error, tarfile.TarError, InputError) as error:
        raise InputError(f"{path} is refused: {error}") from error
    return content


def _write_records(name: str, columns: dict[str, Columns], data_dir: Path, progress: Progress) -> None:
    """Array records as TFDS's own builder of `name` writes them, below `data_dir`."""
    import tensorflow_datasets as tfds
    from PIL import Image

    facts = DATASETS[name]
    features: dict[str, tfds.features.FeatureConnector] = {
        "image": tfds.features.Image(shape=facts.shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=facts.num_classes),
    }
    if name in BINARIES:
        features["id"] = tfds.features.Text()
    if name == "cifar100":
        features["coarse_label"] = tfds.features.ClassLabel(num_classes=20)

    def examples(split: str) -> Iterator[tuple[int, dict]]:
        images = columns[split]["image"]
        for i, image in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(png, "PNG")
            example: dict[str, object] = {
                key: int(values[i]) for key, values in columns[split].items() if key != "image"
            }
            if "id" in features:
                example["id"] = f"{split}_{i:05d}"
            if i % 1000 == 0:
                progress(f"{split} records", i, len(images))
            yield i, example | {"image": png.getvalue()}  # bytes: to encode an array, TFDS takes TensorFlow

    class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(facts.version)
        url_infos = None  # to look them up, TFDS wants the package importlib_resources

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{name}, prepared by relujax from the original files",
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage=facts.page,
                license=facts.licence,
            )

        def _split_generators(self, dl_manager):
            return {split: examples(split) for split in SPLITS}

        def _generate_examples(self):
            raise NotImplementedError

    Records.name = name
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints; `progress` is ours
        Records(data_dir=data_dir, file_format="array_record").download_and_prepare()
