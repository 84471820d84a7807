"""What a trial says of its data: which set, how pixels become floats, how training images are varied.

Pure functions of (key, images): nothing here opens a file. `datasets.py` supplies the arrays.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from relujax.errors import InputError
from relujax.facts import DATASETS
from relujax.own import OwnImages, own_images

Transform = Callable[[np.ndarray], np.ndarray]  # uint8 (N, H, W, C) → float32, fitted to the training images


@dataclass(frozen=True)
class UnitRange:
    """pixels / 255: uint8 (N, H, W, C) → float32 in [0, 1]."""

    def __call__(self, images: ArrayLike) -> Array:
        return jnp.asarray(images, jnp.float32) / 255


@dataclass(frozen=True)
class PerChannel:
    """(pixels − mean) / std for each channel, both in pixel units 0 … 255: uint8 (N, H, W, C) → float32."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != len(self.std):
            raise InputError(f"PerChannel needs one std for each mean; got {self.mean} and {self.std}")
        if not all(std > 0 for std in self.std):
            raise InputError(f"PerChannel std must be positive; got {self.std}")

    def __call__(self, images: ArrayLike) -> Array:
        pixels = jnp.asarray(images, jnp.float32)
        if pixels.shape[-1] != len(self.mean):  # (1,) would broadcast over three channels unnoticed
            raise InputError(f"PerChannel has {len(self.mean)} channels; the images have {pixels.shape[-1]}")
        return (pixels - jnp.array(self.mean, jnp.float32)) / jnp.array(self.std, jnp.float32)


@dataclass(frozen=True)
class PerPixelMean:
    """pixels / 255 − the mean training image: uint8 (N, H, W, C) → float32  (Keras' CIFAR-10 example; AlexNet)."""

    def fit(self, train_images: np.ndarray) -> Transform:
        mean = np.mean(train_images, axis=0, dtype=np.float64) / 255

        def transform(images: np.ndarray) -> np.ndarray:
            return (images / np.float32(255) - mean.astype(np.float32)).astype(np.float32)

        return transform

    def __call__(self, images: ArrayLike) -> Array:
        return _fitted(images)


@dataclass(frozen=True)
class GcnZca:
    """Global contrast normalisation, then ZCA whitening: uint8 (N, H, W, C) → float32  (Goodfellow et al. 2013).

    Each image loses its mean and is scaled to the norm `scale`; with C the covariance of the training images and
    C + `bias` · 1 = V Λ Vᵀ, ZCA multiplies what is left of the training mean by V Λ^−½ Vᵀ. Constants as in pylearn2.
    """

    scale: float = 55.0
    bias: float = 0.1

    def fit(self, train_images: np.ndarray) -> Transform:
        contrast = self._contrast(train_images)
        mean = contrast.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = contrast - mean
        covariance = (centred.T @ centred).astype(np.float64) / len(centred)
        values, vectors = np.linalg.eigh(covariance)
        whiten = ((vectors / np.sqrt(np.maximum(values, 0) + self.bias)) @ vectors.T).astype(np.float32)

        def transform(images: np.ndarray) -> np.ndarray:
            return ((self._contrast(images) - mean) @ whiten).reshape(images.shape)

        return transform

    def __call__(self, images: ArrayLike) -> Array:
        return _fitted(images)

    def _contrast(self, images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1).astype(np.float32)
        flat -= flat.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        return flat * (self.scale / np.maximum(norm, 1e-8))  # an image of one grey has no contrast to scale


def _fitted(images: ArrayLike) -> Array:
    """Images that were transformed once, all of them, before training."""
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"this normalisation is fitted to the training images first, see `fit`; got {images.dtype}")
    return images


@dataclass(frozen=True)
class PadCrop:
    """Pad `pad` zeros on every side, then cut a window of the old size (He et al. 2015, section 4.2)."""

    pad: int = 4

    def __post_init__(self):
        if self.pad < 0:
            raise InputError(f"PadCrop pad must be 0 or more; got {self.pad}")

    def __call__(self, key: Array, image: Array) -> Array:
        row, column = jax.random.randint(key, (2,), 0, 2 * self.pad + 1)
        padded = jnp.pad(image, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        return jax.lax.dynamic_slice(padded, (row, column, jnp.zeros_like(row)), image.shape)


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with the given probability (He et al. 2015, section 4.2)."""

    probability: float = 0.5

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise InputError(f"Flip probability must lie in [0, 1]; got {self.probability}")

    def __call__(self, key: Array, image: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, self.probability), image[:, ::-1], image)


@dataclass(frozen=True)
class Rotate:
    """Turn about the centre by an angle drawn from ± `degrees`, nearest pixel; `fill` where nothing turned to.

    After PerChannel with mean and std of 127.5 black is −1.
    """

    degrees: float
    fill: float = 0.0

    def __post_init__(self):
        if not 0 <= self.degrees <= 180:
            raise InputError(f"Rotate degrees must lie in [0, 180]; got {self.degrees}")

    def __call__(self, key: Array, image: Array) -> Array:
        angle = jax.random.uniform(key, (), minval=-self.degrees, maxval=self.degrees) * (jnp.pi / 180)
        height, width, _ = image.shape
        rows = jnp.arange(height)[:, None] - (height - 1) / 2
        columns = jnp.arange(width)[None, :] - (width - 1) / 2
        # Where each target pixel comes from.
        row = jnp.round(jnp.cos(angle) * rows - jnp.sin(angle) * columns + (height - 1) / 2).astype(jnp.int32)
        column = jnp.round(jnp.sin(angle) * rows + jnp.cos(angle) * columns + (width - 1) / 2).astype(jnp.int32)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        turned = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
        return jnp.where(inside[..., None], turned, self.fill)


@dataclass(frozen=True)
class Shift:
    """Move by up to ± `fraction` of height and width, bilinear, border pixels repeated  (Keras' CIFAR-10 example)."""

    fraction: float = 0.1

    def __post_init__(self):
        if not 0 <= self.fraction <= 1:
            raise InputError(f"Shift fraction must lie in [0, 1]; got {self.fraction}")

    def __call__(self, key: Array, image: Array) -> Array:
        for axis, size in enumerate(image.shape[:2]):
            bound = self.fraction * size
            shift = jax.random.uniform(jax.random.fold_in(key, axis), (), minval=-bound, maxval=bound)
            place = jnp.clip(jnp.arange(size) + shift, 0, size - 1)
            low = jnp.floor(place).astype(jnp.int32)
            part = jnp.expand_dims(place - low, tuple(i for i in range(3) if i != axis))
            high = jnp.minimum(low + 1, size - 1)
            image = (1 - part) * jnp.take(image, low, axis) + part * jnp.take(image, high, axis)
        return image


Normalize = UnitRange | PerChannel | PerPixelMean | GcnZca
Augmentation = PadCrop | Flip | Rotate | Shift


@dataclass(frozen=True, kw_only=True)
class Data:
    """A dataset by name, or images of one's own, and all that happens to them before the network."""

    name: str
    normalize: Normalize
    augment: tuple[Augmentation, ...] = ()
    validation: int = 0  # images held out of the training split, the same ones for every seed
    crop: int | None = None  # the network sees crop×crop pixels: a random window in training, else the central one
    own: OwnImages | None = None  # see `from_arrays`

    def __post_init__(self):
        if self.own is not None and self.name in DATASETS:
            raise InputError(f"own images need a name that no dataset has; got {self.name!r}")
        if self.crop is not None and self.crop < 1:
            raise InputError(f"crop must be at least 1; got {self.crop}")

    @classmethod
    def from_arrays(
        cls,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        test_images: ArrayLike,
        test_labels: ArrayLike,
        name: str = "own images",
        value_range: tuple[float, float] = (0, 1),
        num_classes: int | None = None,
    ) -> "Data":
        """Images of one's own: uint8, or floats where `value_range` is (black, white); (N, H, W, C) or grey (N, H, W).

        Labels are integers (N,) from 0 on; `num_classes` is one more than the largest unless named. Runs are known by
        the digest of all arrays, whatever their order. Raises InputError where shapes, types or values do not fit.
        """
        own = own_images(images, labels, test_images, test_labels, value_range=value_range, num_classes=num_classes)
        return cls(name=name, normalize=UnitRange(), own=own)

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> "Data":
        """One's own images as a record names them, without the images: enough to read what was trained on them."""
        own = {key: value for key, value in described["own"].items() if key != "class"}
        own["shape"] = tuple(own["shape"])
        return cls(name=described["name"], normalize=UnitRange(), own=OwnImages(**own))


def augment(data: Data, keys: Array, images: Array) -> Array:
    """A window of `data.crop`, then `data.augment` in order, with one key per example: keys (N,), images (N, H, W, C).

    Apply it to normalised images, as fb.resnet.torch does: under `PerChannel` the padding is the mean colour.
    """

    def one(key: Array, image: Array) -> Array:
        if data.crop is not None:
            image = _random_window(jax.random.fold_in(key, len(data.augment)), image, data.crop)
        for position, augmentation in enumerate(data.augment):
            image = augmentation(jax.random.fold_in(key, position), image)
        return image

    return jax.vmap(one)(keys, images)


def as_evaluated(data: Data, images: ArrayLike) -> Array:
    """What the network sees outside training: normalised images, their central window of `data.crop`."""
    normalized = data.normalize(images)
    height, width, _ = input_shape(data, normalized.shape[1:])
    top, left = (normalized.shape[1] - height) // 2, (normalized.shape[2] - width) // 2
    return normalized[:, top : top + height, left : left + width]


def input_shape(data: Data, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what the network sees of an image (H, W, C)."""
    return shape if data.crop is None else (data.crop, data.crop, shape[-1])


def _random_window(key: Array, image: Array, size: int) -> Array:
    height, width, channels = image.shape
    row, column = jax.random.randint(key, (2,), 0, jnp.array([height - size + 1, width - size + 1]))
    return jax.lax.dynamic_slice(image, (row, column, jnp.zeros_like(row)), (size, size, channels))
