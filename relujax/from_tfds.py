"""Any image-classification set that TFDS has prepared, as images of one's own; `datasets.py` has the papers' sets."""

import io
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from relujax.data import Data
from relujax.datasets import Progress, cache_home, data_home, fingerprint, read_arrays, sources_of, write_arrays
from relujax.errors import InputError, need, unknown
from relujax.facts import DATASETS
from relujax.own import PARTS, canonical, digest_of
from relujax.pictures import blocks, square

MOST_BYTES = 8 << 30  # of decoded images, which all are in memory
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # what Pillow calls images of so many channels


def from_tfds(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> Data:
    """A set in `data_dir` (else $RELUJAX_DATA or ~/.cache/relujax/data) by its name in TFDS: "beans", "beans@64".

    "@64" makes squares of 64×64 pixels: the shorter side resized, the centre cut out; needed where pictures differ in
    size. Without a test split, the validation split or else the last fifth of the training images is tested on, in
    canonical order. Raises InputError where it is not prepared, not of images and classes, or too large for memory.
    """
    plain, _, size = name.partition("@")
    if size and not (size.isdecimal() and int(size) > 0):
        raise InputError(f"a size is a number of pixels, e.g. {plain}@64; got {name!r}")
    builder = _builder(plain, data_home(data_dir))
    records = Path(str(builder.data_path))
    image, label = _columns(plain, builder.info)
    shape, num_classes = builder.info.features[image].shape, builder.info.features[label].num_classes
    if size:
        shape = (int(size), int(size), shape[-1] or 3)
    if None in shape:
        raise InputError(f"the pictures of {plain} differ in size: name the side of squares, e.g. {plain}@64")
    splits, told = _splits(plain, builder.info)
    needed = sum(builder.info.splits[split].num_examples for split in set(splits)) * prod(shape)
    if needed > MOST_BYTES:
        most = f"at most {MOST_BYTES >> 30} GiB of pixels are held in memory"
        raise InputError(f"{most}; {name} has {needed / (1 << 30):.1f}: name smaller squares, e.g. {plain}@64")
    cached = cache_home() / "arrays" / f"{name.replace('/', '-')}-{fingerprint(records)[:16]}"
    if found := read_arrays(cached):
        _, arrays, _ = found
    else:
        arrays = _decode(plain, records, splits, image, label, _decoder(shape, squares=bool(size)), progress)
        write_arrays(cached, cached.name, name, arrays, digest_of(arrays))
    return Data.from_arrays(
        arrays["train_images"],
        arrays["train_labels"],
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"],
        name=name + told,
        num_classes=num_classes,
    )


def _builder(name: str, home: Path) -> Any:
    there = home / name.partition("/")[0].partition(":")[0]
    if not there.is_dir():
        if name in DATASETS:
            raise InputError(f"{name} is not prepared in {home}, to resize its images; leave the size out for its own")
        raise InputError(f"{unknown('dataset', name, DATASETS)}, or a name that TFDS has prepared in {home}")
    need("tensorflow_datasets", "array_record", "PIL", extra="data")
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_files(name, data_dir=home)
    except Exception as error:  # of TFDS, with a page of hints
        raise InputError(f"{name} cannot be read from {there}: is it whole, and has it this version?") from error


def _columns(name: str, info: Any) -> tuple[str, str]:
    """What the set calls its images and its labels."""
    import tensorflow_datasets as tfds

    image, label, *_ = info.supervised_keys or ("image", "label")
    features = dict(info.features)
    if not isinstance(features.get(image), tfds.features.Image) or not isinstance(
        features.get(label), tfds.features.ClassLabel
    ):
        raise InputError(f"{name} is no set of images with one class each; its features are {', '.join(features)}")
    return image, label


def _splits(name: str, info: Any) -> tuple[tuple[str, str], str]:
    """What the set calls our two splits, and how a report names a choice that is not the obvious one."""
    splits = list(info.splits)
    if "train" not in splits:
        raise InputError(f"{name} has no split 'train' to learn from; it has {', '.join(splits)}")
    if "test" in splits:
        return ("train", "test"), ""
    if "validation" in splits:
        return ("train", "validation"), " (tested on its validation split)"
    return ("train", "train"), " (tested on a fifth of its training split)"


def _decoder(shape: tuple[int, int, int], *, squares: bool) -> Callable[[bytes], np.ndarray]:
    from PIL import Image

    height, width, channels = shape

    def pixels(encoded: bytes) -> np.ndarray:
        if squares:
            return square(encoded, height)[..., :channels]  # grey pictures have three equal channels there
        with Image.open(io.BytesIO(encoded)) as picture:
            if picture.size != (width, height):
                raise ValueError(f"a picture has {picture.size} pixels instead of {(width, height)}")
            return np.asarray(picture.convert(MODES[channels]), np.uint8).reshape(shape)

    return pixels


def _decode(
    name: str,
    records: Path,
    splits: tuple[str, str],
    image: str,
    label: str,
    pixels: Callable[[bytes], np.ndarray],
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    arrays = {}
    with sources_of(name, records, splits, image) as sources:
        for split, source in sources.items():
            if splits[0] == splits[1] and split == "test":
                break
            images, labels = [], []
            for block in blocks(source):
                images += [pixels(example[image]) for example in block]
                labels += [int(example[label]) for example in block]
                if progress:
                    progress(f"{name} {split} images", len(images), len(source))
            arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": np.array(labels, np.int32)}
    if "test_images" not in arrays:
        images, labels = canonical(arrays["train_images"], arrays["train_labels"])
        cut = len(images) - len(images) // 5
        arrays = dict(zip(PARTS, (images[:cut], labels[:cut], images[cut:], labels[cut:])))
    return arrays
