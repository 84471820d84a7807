"""Arrays of images as runs know them: in an order made of their content, and by a digest; the reader's own ones too."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from relujax.errors import InputError, one_line
from relujax.facts import SPLITS

Arrays = dict[str, np.ndarray]  # SPLITS × (images, labels)
PARTS = tuple(f"{split}_{part}" for split in SPLITS for part in ("images", "labels"))


@dataclass(frozen=True, kw_only=True)
class OwnImages:
    """What a run's identity says of the reader's own images: their sizes and the digest of all their bytes."""

    shape: tuple[int, int, int]  # (H, W, C)
    train: int
    test: int
    num_classes: int
    digest: str
    # In canonical order; floats are in pixel units 0 … 255. None where a report only names them.
    arrays: Arrays | None = field(default=None, compare=False, repr=False)
    large: ClassVar[bool] = False  # as of `Facts`


def own_images(
    images: ArrayLike,
    labels: ArrayLike,
    test_images: ArrayLike,
    test_labels: ArrayLike,
    *,
    value_range: tuple[float, float],
    num_classes: int | None,
) -> OwnImages:
    """See `Data.from_arrays`."""
    if num_classes is not None and not (isinstance(num_classes, int | np.integer) and 1 <= num_classes < 2**31):
        raise InputError(f"num_classes must be a whole number from 1 to {2**31 - 1}; got {num_classes!r}")
    train = _as_pixels(images, "images", value_range), _as_labels(labels, "labels")
    test = _as_pixels(test_images, "test_images", value_range), _as_labels(test_labels, "test_labels")
    for name, (own_pixels, own_labels) in (("labels", train), ("test_labels", test)):
        if len(own_pixels) != len(own_labels):
            raise InputError(f"{name} must be one per image; got {len(own_labels)} for {len(own_pixels)} images")
    for name, ours, theirs in (
        ("height, width and channels", train[0].shape[1:], test[0].shape[1:]),
        ("type", str(train[0].dtype), str(test[0].dtype)),
    ):
        if ours != theirs:
            raise InputError(f"training and test images must have the same {name}; got {ours} and {theirs}")
    classes = int(train[1].max()) + 1 if num_classes is None else num_classes
    for name, (_, own_labels) in (("labels", train), ("test_labels", test)):
        if own_labels.min() < 0 or own_labels.max() >= classes:
            found = f"{own_labels.min()} to {own_labels.max()}"
            raise InputError(f"{name} must lie between 0 and {classes - 1}, the largest class; got {found}")
    if num_classes is None and len(there := np.unique(train[1])) < classes:
        empty = int(np.argmax(there != np.arange(len(there))))
        raise InputError(f"every label from 0 to {classes - 1} needs an image, or name num_classes; none has {empty}")
    pairs = ((own_pixels, own_labels.astype(np.int32)) for own_pixels, own_labels in (train, test))
    arrays = dict(zip(PARTS, (part for pair in pairs for part in canonical(*pair))))
    for array in arrays.values():
        array.flags.writeable = False  # what the digest says stays so
    height, width, channels = train[0].shape[1:]
    return OwnImages(
        shape=(height, width, channels),
        train=len(train[0]),
        test=len(test[0]),
        num_classes=classes,
        digest=digest_of(arrays),
        arrays=arrays,
    )


def _as_pixels(images: ArrayLike, name: str, value_range: tuple[float, float]) -> np.ndarray:
    """uint8 (N, H, W, C) as it is, floats as float32 in pixel units 0 … 255."""
    array: Any = _array(images, name)
    if array.ndim == 3:  # grey, without an axis for its one channel
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise InputError(f"{name} must have shape (N, H, W, C), or (N, H, W) where they are grey; got {array.shape}")
    if array.shape[1] in (1, 3) and array.shape[3] > 4:
        raise InputError(f"{name} must have their channels last: np.moveaxis({name}, 1, -1); got {array.shape}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name} must be uint8 or floats; got {array.dtype}")
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not -np.inf < low < high < np.inf:
        raise InputError(f"value_range must be (black, white), finite, with black < white; got {value_range}")
    least, most = float(array.min()), float(array.max())
    if not low <= least <= most <= high:  # nan fails, too
        raise InputError(f"{name} must lie in value_range, ({low:g}, {high:g}); got {least:g} to {most:g}")
    return ((array - low) * (255 / (high - low))).astype(np.float32)


def _as_labels(labels: ArrayLike, name: str) -> np.ndarray:
    array = _array(labels, name)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        hint = f": np.argmax({name}, 1)" if array.ndim == 2 and array.shape[1] > 1 else ""
        raise InputError(f"{name} must be integers of shape (N,){hint}; got {array.dtype} of shape {array.shape}")
    return array


def _array(values: ArrayLike, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} must be one array, all parts of equal shape: {one_line(error)}") from None


def canonical(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in the order of SHA-256(image bytes + label bytes)."""
    contents = (image.tobytes() + label.tobytes() for image, label in zip(images, labels))
    keys = [hashlib.sha256(content).digest() for content in contents]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return images[order], labels[order]


def digest_of(arrays: Arrays) -> str:
    """SHA-256 over name, shape and bytes of the four arrays: uint8, but for int32 labels and own floats."""
    sha = hashlib.sha256()
    for part in PARTS:
        sha.update(f"{part} {arrays[part].shape}\n".encode())
        sha.update(np.ascontiguousarray(arrays[part]).data)
    return sha.hexdigest()
