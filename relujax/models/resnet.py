"""Residual network for CIFAR with post-activation blocks, He et al. 2015, arXiv:1512.03385, section 4.2.

The baseline of "Deep Residual Networks with ELU", and the building block in which the proportional-module papers drop
the first or the last ReLU (Fig. 3; equations 4–6 of "Training Better CNNs").
"""

from typing import Literal, get_args

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.errors import check_choice
from relujax.initializers import he_normal, he_normal_fan_out, torch_uniform
from relujax.layers import (
    Activation,
    as_images,
    batch_norm,
    blocks_per_stage,
    conv,
    dense,
    global_average_pool,
    pad_shortcut,
    settle,
)
from relujax.placement import PAIRED, Placement, Slots, slots_of

# Where the shape changes: every other pixel and channels of zeros, or a 1×1 convolution with or without BatchNorm.
Shortcut = Literal["pad", "projection", "projection_without_bn"]
# "with_activation" drops the BatchNorm together with its ReLU (equation 6).
BatchNorm = Literal["always", "with_activation"]
# Weights' variance: 2 / fan_in, or 2 / fan_out as in Facebook's Torch.
He = Literal["fan_in", "fan_out"]


class Block(nn.Module):
    """y = act(BN(W₂ * act(BN(W₁ * x))) + x), Fig. 2 left: (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters)."""

    filters: int
    stride: int
    activation: ActivationLike
    slots: Slots  # (after conv1, after the sum)
    shortcut: Shortcut
    batch_norm: BatchNorm
    he: He

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        inside, after = self.slots
        kernel_init = he_normal if self.he == "fan_in" else he_normal_fan_out
        y = conv(x, self.filters, stride=self.stride, kernel_init=kernel_init, name="conv1")
        if inside or self.batch_norm == "always":
            y = batch_norm(y, train, name="bn1")
        y = Activation(self.activation, on=inside, name="act1")(y, train=train)
        y = conv(y, self.filters, kernel_init=kernel_init, name="conv2")
        if after or self.batch_norm == "always":
            y = batch_norm(y, train, name="bn2")
        if y.shape != x.shape:
            if self.shortcut == "pad":
                x = pad_shortcut(x, self.filters, self.stride)
            else:
                x = conv(x, self.filters, 1, self.stride, kernel_init=kernel_init, name="shortcut_conv")
                if self.shortcut == "projection":
                    x = batch_norm(x, train, name="shortcut_bn")
        return Activation(self.activation, on=after, name="act2")(settle(x + y), train=train)


class ResNet(nn.Module):
    """6n + 2 layers: a stem, three stages of n blocks with 16, 32 and 64 filters, and a dense layer."""

    depth: int
    num_classes: int
    activation: ActivationLike = "relu"
    placement: Placement = PAIRED
    shortcut: Shortcut = "pad"
    batch_norm: BatchNorm = "always"
    he: He = "fan_in"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        check_choice("shortcut", self.shortcut, get_args(Shortcut))
        check_choice("batch_norm", self.batch_norm, get_args(BatchNorm))
        check_choice("he", self.he, get_args(He))
        blocks = blocks_per_stage("ResNet", self.depth, layers_per_block=2)
        x = as_images(images, self.dtype)
        x = conv(x, 16, kernel_init=he_normal if self.he == "fan_in" else he_normal_fan_out, name="stem_conv")
        x = batch_norm(x, train, name="stem_bn")
        x = Activation(self.activation, name="stem_act")(x, train=train)
        for stage, filters in enumerate((16, 32, 64)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                slots = slots_of(self.placement, stage * blocks + block, places=2)
                name = f"stage{stage + 1}_block{block + 1}"
                options = (self.shortcut, self.batch_norm, self.he)
                x = Block(filters, stride, self.activation, slots, *options, name=name)(x, train=train)
        x = global_average_pool(x)
        return dense(x, self.num_classes, kernel_init=torch_uniform, name="head").astype(jnp.float32)
