"""Extra numbers after each epoch, computed from every activation site's output on training images.

A probe is a frozen dataclass: `images` says how many training images it looks at (None: all), and calling it with the
sites' outputs {site: (N, units)} and the parameters returns named arrays. Scalars become metrics, larger arrays are
kept as files.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from relujax.gates import gates_of, openness
from relujax.layers import max_pool


@dataclass(frozen=True, kw_only=True)
class MedianActivation:
    """median over all units of the unit's mean activation (ELU, Fig. 2a), on a fixed part of the training images.

    Deviation: the paper does not give the size of the subset; the first 10,000 training images.
    """

    images: int | None = 10_000

    def __call__(self, outputs: dict[str, Array], params: Any = None) -> dict[str, Array]:
        means = [jnp.mean(output.astype(jnp.float32), axis=0).ravel() for output in outputs.values()]
        return {"median_activation": jnp.median(jnp.concatenate(means))}


@dataclass(frozen=True, kw_only=True)
class UnitMedians:
    """Each unit's median activation over the training images, (units,) (ELU, appendix C)."""

    images: int | None = None

    def __call__(self, outputs: dict[str, Array], params: Any = None) -> dict[str, Array]:
        return {"unit_medians": jnp.concatenate([column_medians(output).ravel() for output in outputs.values()])}


@dataclass(frozen=True, kw_only=True)
class Representation:
    """What the dropout before the dense layers of `DeepDense` is given: `conv_act2`, pooled (TanhExp, Fig. 10).

    `representation` is the maps of the first training image, (maps, H, W); `representation_roughness` is the mean
    difference of neighbouring pixels as a share of their map's range, over all maps that are not constant.

    Deviation: the paper shows the output of the dropout of one image, unnamed; here dropout is off, as in evaluation.
    Deviation: "smoother" is judged by eye in the paper; here by the roughness over the first 100 training images.
    """

    images: int | None = 100

    def __call__(self, outputs: dict[str, Array], params: Any = None) -> dict[str, Array]:
        pooled = max_pool(outputs["conv_act2"].astype(jnp.float32))
        maps = jnp.moveaxis(pooled, -1, 1)  # (N, maps, H, W)
        return {"representation": maps[0], "representation_roughness": roughness(maps)}


@dataclass(frozen=True, kw_only=True)
class Gates:
    """How far each gate of a network of `Gated` activations is open, 0 to 1: gate_1, gate_2 … from the input on."""

    images: int | None = 1

    def __call__(self, outputs: dict[str, Array], params: Any = None) -> dict[str, Array]:
        found = {}
        for site in outputs:
            own = params
            for part in site.split("/"):
                own = own.get(part, {})
            if gates := gates_of(own):
                found[f"gate_{len(found) + 1}"] = openness(gates[0])
        return found


Probe = MedianActivation | UnitMedians | Representation | Gates


def roughness(maps: Array) -> Array:
    """Mean |difference of neighbours| / (max − min) of a map, mean over maps that are not constant: (…, H, W) → ()."""
    span = jnp.ptp(maps, axis=(-2, -1))
    across = jnp.mean(jnp.abs(jnp.diff(maps, axis=-1)), axis=(-2, -1))
    down = jnp.mean(jnp.abs(jnp.diff(maps, axis=-2)), axis=(-2, -1))
    varies = span > 0
    shares = jnp.where(varies, (across + down) / 2 / jnp.where(varies, span, 1), 0)
    return jnp.sum(shares) / jnp.maximum(jnp.sum(varies), 1)


def column_medians(values: Array) -> Array:
    """The lower median of each column of (N, units) float32 values, exact, without sorting.

    Sorting 50,000 values per unit takes many times longer than an epoch of training. Floats compare as their bits do
    once the negative ones are flipped, so the median's 32 bits can be found one after another by counting.
    """
    bits = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    keys = jnp.where(bits & sign, ~bits, bits | sign)
    rank = (values.shape[0] - 1) // 2

    def next_bit(median: Array, bit: Array) -> tuple[Array, None]:
        candidate = median | (jnp.uint32(1) << bit)
        below = jnp.sum(keys < candidate, axis=0, dtype=jnp.int32)
        return jnp.where(below <= rank, candidate, median), None

    medians, _ = lax.scan(next_bit, jnp.zeros(values.shape[1:], jnp.uint32), jnp.arange(31, -1, -1, dtype=jnp.uint32))
    bits = jnp.where(medians & sign, medians & ~sign, ~medians)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
