"""MobileNet, arXiv:1704.04861, and MobileNetV2, arXiv:1801.04381, for CIFAR, as in weiaicunzai/pytorch-cifar100.

Deviation: the activation under test stands everywhere; in the notebook that TanhExp's numbers come from, MobileNet's
first depthwise-separable block kept its ReLU.
Deviation: MobileNetV2's ReLU baseline is ReLU6 there; pass activation="relu6" for it.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax import layers
from relujax.activations import ActivationLike
from relujax.initializers import torch_bias, torch_uniform
from relujax.layers import Activation, as_images, batch_norm, global_average_pool, settle

conv = partial(layers.conv, kernel_init=torch_uniform)
dense = partial(layers.dense, kernel_init=torch_uniform, bias=torch_bias)


class DepthwiseSeparable(nn.Module):
    """3×3 per channel, then 1×1, BN and activation after both: → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters)."""

    filters: int
    stride: int
    activation: ActivationLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = conv(x, x.shape[-1], stride=self.stride, groups=x.shape[-1], name="depthwise")
        x = batch_norm(x, train, name="bn1")
        x = Activation(self.activation, name="act1")(x, train=train)
        x = conv(x, self.filters, 1, bias=torch_bias, name="pointwise")
        x = batch_norm(x, train, name="bn2")
        return Activation(self.activation, name="act2")(x, train=train)


class MobileNet(nn.Module):
    """A stem, 13 depthwise-separable blocks, and a dense layer: (N, H, W, C) → (N, num_classes)."""

    num_classes: int
    activation: ActivationLike = "tanhexp"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        x = as_images(images, self.dtype)
        x = conv(x, 32, name="stem_conv")
        x = batch_norm(x, train, name="stem_bn")
        x = Activation(self.activation, name="stem_act")(x, train=train)
        # filters, stride
        table = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *5 * [(512, 1)], (1024, 2), (1024, 1))
        for block, (filters, stride) in enumerate(table, start=1):
            x = DepthwiseSeparable(filters, stride, self.activation, name=f"block{block}")(x, train=train)
        return dense(global_average_pool(x), self.num_classes, name="head").astype(jnp.float32)


class InvertedResidual(nn.Module):
    """1×1 to `expansion` times the channels, 3×3 per channel, 1×1 without activation, around a shortcut where it fits.

    (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters).
    """

    expansion: int
    filters: int
    stride: int
    activation: ActivationLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        inner = self.expansion * x.shape[-1]
        y = conv(x, inner, 1, bias=torch_bias, name="expand")
        y = batch_norm(y, train, name="bn1")
        y = Activation(self.activation, name="act1")(y, train=train)
        y = conv(y, inner, stride=self.stride, groups=inner, bias=torch_bias, name="depthwise")
        y = batch_norm(y, train, name="bn2")
        y = Activation(self.activation, name="act2")(y, train=train)
        y = conv(y, self.filters, 1, bias=torch_bias, name="project")
        y = batch_norm(y, train, name="bn3")
        return settle(x + y) if y.shape == x.shape and self.stride == 1 else y


class MobileNetV2(nn.Module):
    """A stem, 17 inverted residuals, and a 1×1 convolution as classifier: (N, H, W, C) → (N, num_classes)."""

    num_classes: int
    activation: ActivationLike = "tanhexp"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        x = as_images(images, self.dtype)
        x = conv(x, 32, 1, padding=1, bias=torch_bias, name="stem_conv")  # 34×34, as in the source
        x = batch_norm(x, train, name="stem_bn")
        x = Activation(self.activation, name="stem_act")(x, train=train)
        # expansion, filters, blocks, stride of the first
        table = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 1),
            (6, 320, 1, 1),
        )
        for stage, (expansion, filters, blocks, stride) in enumerate(table, start=1):
            for block in range(1, blocks + 1):
                unit = InvertedResidual(
                    expansion, filters, stride if block == 1 else 1, self.activation, name=f"stage{stage}_block{block}"
                )
                x = unit(x, train=train)
        x = conv(x, 1280, 1, bias=torch_bias, name="final_conv")
        x = batch_norm(x, train, name="final_bn")
        x = Activation(self.activation, name="final_act")(x, train=train)
        return dense(global_average_pool(x), self.num_classes, name="head").astype(jnp.float32)
