"""Pre-activation residual network for CIFAR, He et al. 2016, arXiv:1603.05027, section 5.

The proportional-module papers drop the first or the second ReLU of its basic block (Fig. 4; equations 7–9 of "Training
Better CNNs") and one of the three of its bottleneck (types 1, 2, 3; Figs. 7 and 8 of "Rethinking ReLU").

Deviation: BN-ReLU stands on the residual branch only and a shortcut leaves from the raw input, so that dropping a ReLU
changes nothing else; the authors' own code shares the first BN-ReLU of a stage with its shortcut.
Deviation: the stride of a bottleneck is in its 3×3 convolution, as in Facebook's Torch; the authors' is in the first.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.errors import check_choice
from relujax.initializers import he_normal, torch_uniform
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

# Where the shape changes: every other pixel and channels of zeros, or a 1×1 convolution.
Shortcut = Literal["pad", "projection"]
# "with_activation" drops the BatchNorm together with its ReLU (equation 9).
BatchNorm = Literal["always", "with_activation"]
# Of each convolution: kernel size, filters in units of the stage's width, and whether it carries the stride.
BLOCKS = {
    "basic": ((3, 1, True), (3, 1, False)),
    "bottleneck": ((1, 1, False), (3, 1, True), (1, 4, False)),
}


class Block(nn.Module):
    """y = W₂ * act(BN(W₁ * act(BN(x)))) + x, or with three convolutions 1×1, 3×3, 1×1; Fig. 1b."""

    block: str
    width: int
    stride: int
    activation: ActivationLike
    slots: Slots  # before conv1, before conv2 (, before conv3)
    shortcut: Shortcut
    batch_norm: BatchNorm

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, 1 or 4 × width)
        y = x
        for layer, ((kernel, widths, strided), on) in enumerate(zip(BLOCKS[self.block], self.slots), start=1):
            if on or self.batch_norm == "always":
                y = batch_norm(y, train, name=f"bn{layer}")
            y = Activation(self.activation, on=on, name=f"act{layer}")(y, train=train)
            stride = self.stride if strided else 1
            y = conv(y, widths * self.width, kernel, stride, kernel_init=he_normal, name=f"conv{layer}")
        if y.shape != x.shape:
            if self.shortcut == "pad":
                x = pad_shortcut(x, y.shape[-1], self.stride)
            else:
                x = conv(x, y.shape[-1], 1, self.stride, kernel_init=he_normal, name="shortcut_conv")
        return settle(x + y)


class PreActResNet(nn.Module):
    """6n + 2 layers with basic blocks, 9n + 2 with bottlenecks: a stem, three stages of n blocks, and a dense layer.

    BN and activation before the pooling stay whatever the placement: nothing else is nonlinear after the last sum.
    """

    depth: int
    num_classes: int
    block: Literal["basic", "bottleneck"] = "basic"
    activation: ActivationLike = "relu"
    placement: Placement = PAIRED
    shortcut: Shortcut = "projection"
    batch_norm: BatchNorm = "always"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        check_choice("block", self.block, BLOCKS)
        check_choice("shortcut", self.shortcut, get_args(Shortcut))
        check_choice("batch_norm", self.batch_norm, get_args(BatchNorm))
        places = len(BLOCKS[self.block])
        blocks = blocks_per_stage(f"PreActResNet ({self.block})", self.depth, layers_per_block=places)
        x = as_images(images, self.dtype)
        x = conv(x, 16, kernel_init=he_normal, name="stem_conv")
        for stage, width in enumerate((16, 32, 64)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                slots = slots_of(self.placement, stage * blocks + block, places)
                options = (slots, self.shortcut, self.batch_norm)
                name = f"stage{stage + 1}_block{block + 1}"
                x = Block(self.block, width, stride, self.activation, *options, name=name)(x, train=train)
        x = batch_norm(x, train, name="final_bn")
        x = Activation(self.activation, name="final_act")(x, train=train)
        x = global_average_pool(x)
        return dense(x, self.num_classes, kernel_init=torch_uniform, name="head").astype(jnp.float32)
