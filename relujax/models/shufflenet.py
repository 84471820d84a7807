"""ShuffleNet, arXiv:1707.01083, and ShuffleNetV2, arXiv:1807.11164, for CIFAR, as in weiaicunzai/pytorch-cifar100.

Deviation: stage 2 groups its first 1×1 convolution, too, and convolutions have biases, as there but not in the papers.
Deviation: ShuffleNetV2's stem has no activation, as there.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax import layers
from relujax.activations import ActivationLike
from relujax.initializers import torch_bias, torch_uniform
from relujax.layers import Activation, as_images, batch_norm, global_average_pool

conv = partial(layers.conv, kernel_init=torch_uniform, bias=torch_bias)
dense = partial(layers.dense, kernel_init=torch_uniform, bias=torch_bias)


def channel_shuffle(x: Array, groups: int) -> Array:
    """Deals the channels out anew: 1 2 3 | 4 5 6 becomes 1 4 2 5 3 6 with two groups; (…, C) → (…, C)."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


class Unit(nn.Module):
    """Grouped 1×1, shuffle, 3×3 per channel, grouped 1×1, around a shortcut (Fig. 2b; Fig. 2c where filters change).

    (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters).
    """

    filters: int
    groups: int
    activation: ActivationLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shrinks = x.shape[-1] != self.filters
        inner = self.filters // 4
        y = conv(x, inner, 1, groups=self.groups, name="compress")
        y = batch_norm(y, train, name="bn1")
        y = Activation(self.activation, name="act1")(y, train=train)
        y = channel_shuffle(y, self.groups)
        y = conv(y, inner, stride=2 if shrinks else 1, groups=inner, name="depthwise")
        y = batch_norm(y, train, name="bn2")
        y = conv(y, self.filters - shrinks * x.shape[-1], 1, groups=self.groups, name="expand")
        y = batch_norm(y, train, name="bn3")
        y = jnp.concatenate([_average_pool(x), y], axis=-1) if shrinks else x + y
        return Activation(self.activation, name="act2")(y, train=train)


class ShuffleNet(nn.Module):
    """ShuffleNet with 3 groups: a stem, three stages of units, and a dense layer: (N, H, W, C) → (N, num_classes)."""

    num_classes: int
    activation: ActivationLike = "tanhexp"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        x = as_images(images, self.dtype)
        x = conv(x, 24, name="stem_conv")
        x = batch_norm(x, train, name="stem_bn")
        x = Activation(self.activation, name="stem_act")(x, train=train)
        for stage, (filters, units) in enumerate(((240, 4), (480, 8), (960, 4)), start=2):
            for unit in range(1, units + 1):
                x = Unit(filters, 3, self.activation, name=f"stage{stage}_unit{unit}")(x, train=train)
        return dense(global_average_pool(x), self.num_classes, name="head").astype(jnp.float32)


class UnitV2(nn.Module):
    """Half of the channels passes unchanged (Fig. 3c); where filters change, both branches see all of them (Fig. 3d).

    (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters).
    """

    filters: int
    activation: ActivationLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shrinks = x.shape[-1] != self.filters
        half, stride = self.filters // 2, 2 if shrinks else 1
        shortcut, y = (x, x) if shrinks else jnp.split(x, 2, axis=-1)
        y = conv(y, y.shape[-1], 1, name="conv1")
        y = batch_norm(y, train, name="bn1")
        y = Activation(self.activation, name="act1")(y, train=train)
        y = conv(y, y.shape[-1], stride=stride, groups=y.shape[-1], name="depthwise")
        y = batch_norm(y, train, name="bn2")
        y = conv(y, half, 1, name="conv3")
        y = batch_norm(y, train, name="bn3")
        y = Activation(self.activation, name="act3")(y, train=train)
        if shrinks:
            shortcut = conv(shortcut, x.shape[-1], stride=2, groups=x.shape[-1], name="shortcut_depthwise")
            shortcut = batch_norm(shortcut, train, name="shortcut_bn1")
            shortcut = conv(shortcut, half, 1, name="shortcut_conv")
            shortcut = batch_norm(shortcut, train, name="shortcut_bn2")
            shortcut = Activation(self.activation, name="shortcut_act")(shortcut, train=train)
        return channel_shuffle(jnp.concatenate([shortcut, y], axis=-1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 ×1: a stem, three stages of units, a 1×1 convolution and a dense layer: → (N, num_classes)."""

    num_classes: int
    activation: ActivationLike = "tanhexp"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        x = as_images(images, self.dtype)
        x = conv(x, 24, name="stem_conv")
        x = batch_norm(x, train, name="stem_bn")
        for stage, (filters, units) in enumerate(((116, 4), (232, 8), (464, 4)), start=2):
            for unit in range(1, units + 1):
                x = UnitV2(filters, self.activation, name=f"stage{stage}_unit{unit}")(x, train=train)
        x = conv(x, 1024, 1, name="final_conv")
        x = batch_norm(x, train, name="final_bn")
        x = Activation(self.activation, name="final_act")(x, train=train)
        return dense(global_average_pool(x), self.num_classes, name="head").astype(jnp.float32)


def _average_pool(x: Array) -> Array:
    """Mean of 3×3 pixels at every other one; the zeros around the image count, as in Torch."""
    return nn.avg_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2), "VALID")
