"""Plain network of the proportional-module papers: "Rethinking ReLU", Table I; "Training Better CNNs", Tables 1 and 2.

A stem, three stages of 3×3 convolutions with 16, 32 and 64 filters, global average pooling and a dense layer; built as
in the authors' reference [9] (DFN-MR, arXiv:1611.07718), whose code their plain networks follow.

Deviation: the papers' depth counts stem and dense layer, though a caption calls it "number of convolutional layers".
Deviation: 2:1 drops the ReLU of the 1st, 3rd, 5th … layer counted through all stages; the stem always keeps its own.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.errors import InputError
from relujax.initializers import he_normal, torch_uniform
from relujax.layers import Activation, as_images, batch_norm, conv, dense, global_average_pool
from relujax.placement import PAIRED, Placement, slots_of


class Layer(nn.Module):
    """Convolution, BatchNorm, and an activation where `on`: (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters)."""

    filters: int
    stride: int
    activation: ActivationLike
    on: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = conv(x, self.filters, stride=self.stride, kernel_init=he_normal, name="conv")
        x = batch_norm(x, train, epsilon=2e-5, name="bn")
        return Activation(self.activation, on=self.on, name="act")(x, train=train)


class Plain(nn.Module):
    """`depth` layers without shortcuts; activation="identity" removes every ReLU, "relu_plus_identity" is the ensemble.

    The ensemble module ("Training Better CNNs", Fig. 3a) leads a shortcut around every ReLU: z ↦ ReLU(z) + z.
    """

    depth: int
    num_classes: int
    activation: ActivationLike = "relu"
    placement: Placement = PAIRED
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        layers = self.depth - 2
        if layers < 3:
            raise InputError(f"Plain depth must be 5 or more: stem, three layers, head; got {self.depth}")
        ends = [layers * stage // 3 for stage in range(4)]  # 27, 27, 28 layers where three do not divide them
        x = as_images(images, self.dtype)
        x = Layer(16, 1, self.activation, name="stem")(x, train=train)
        for stage, filters in enumerate((16, 32, 64)):
            for index in range(ends[stage], ends[stage + 1]):
                stride = 2 if stage > 0 and index == ends[stage] else 1
                (on,) = slots_of(self.placement, index, places=1)
                name = f"stage{stage + 1}_layer{index - ends[stage] + 1}"
                x = Layer(filters, stride, self.activation, on, name=name)(x, train=train)
        x = global_average_pool(x)
        return dense(x, self.num_classes, kernel_init=torch_uniform, name="head").astype(jnp.float32)
