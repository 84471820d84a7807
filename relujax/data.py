"""What a trial says of its data: which set, how pixels become floats, how training images are varied.

Pure functions of (key, images): nothing here opens a file. `datasets.py` supplies the arrays.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from relujax.errors import InputError


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


Normalize = UnitRange | PerChannel
Augmentation = PadCrop | Flip


@dataclass(frozen=True, kw_only=True)
class Data:
    """A dataset by name, and all that happens to it before the network."""

    name: str
    normalize: Normalize
    augment: tuple[Augmentation, ...] = ()
    validation: int = 0  # images held out of the training split, the same ones for every seed


def augment(data: Data, keys: Array, images: Array) -> Array:
    """`data.augment` in order, with one key per example: keys (N,), images (N, H, W, C) → (N, H, W, C).

    Apply it to normalised images, as fb.resnet.torch does: under `PerChannel` the padding is the mean colour.
    """

    def one(key: Array, image: Array) -> Array:
        for position, augmentation in enumerate(data.augment):
            image = augmentation(jax.random.fold_in(key, position), image)
        return image

    return jax.vmap(one)(keys, images)
