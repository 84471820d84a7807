"""Merge-and-run network (DFN-MR), Zhao et al., arXiv:1611.07718, section 3: two lines that share their inputs' mean.

The proportional-module papers drop ReLUs of its block (Fig. 5 of both; Fig. 10 of "Training Better CNNs").

Deviation: BatchNorm statistics span the whole batch; the authors trained on two GPUs with 32 images each.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.errors import InputError
from relujax.initializers import he_normal, torch_uniform
from relujax.layers import Activation, as_images, batch_norm, conv, dense, global_average_pool, settle
from relujax.placement import PAIRED, Placement, Slots, slots_of

EPSILON = 2e-5  # of every BatchNorm, as in the authors' code


class Branch(nn.Module):
    """F(x) = BN(W₂ * act(BN(W₁ * x))): (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, filters)."""

    filters: int
    stride: int
    activation: ActivationLike
    on: bool

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = conv(x, self.filters, stride=self.stride, kernel_init=he_normal, name="conv1")
        x = batch_norm(x, train, epsilon=EPSILON, name="bn1")
        x = Activation(self.activation, on=self.on, name="act1")(x, train=train)
        x = conv(x, self.filters, kernel_init=he_normal, name="conv2")
        return batch_norm(x, train, epsilon=EPSILON, name="bn2")


class Block(nn.Module):
    """a′ = act(m + F_a(a)), b′ = act(m + F_b(b)) with m the mean of both lines (eq. 3); all (N, H, W, C).

    Where the shape changes, each line is projected by a 1×1 convolution and BN before the mean.
    """

    filters: int
    stride: int
    activation: ActivationLike
    slots: Slots  # (inside a, inside b, after the sum of a, after the sum of b)
    last: bool  # the network's last block ends both lines in one: act(m + F_a(a) + F_b(b))

    @nn.compact
    def __call__(self, a: Array, b: Array, *, train: bool) -> tuple[Array, Array]:
        inside_a, inside_b, after_a, after_b = self.slots
        fa = Branch(self.filters, self.stride, self.activation, inside_a, name="branch_a")(a, train=train)
        fb = Branch(self.filters, self.stride, self.activation, inside_b, name="branch_b")(b, train=train)
        if fa.shape != a.shape:
            a, b = self._project(a, train, "a"), self._project(b, train, "b")
        mean = settle((a + b) / 2)
        if self.last:
            merged = Activation(self.activation, name="act")(mean + fa + fb, train=train)
            return merged, merged
        a = Activation(self.activation, on=after_a, name="act_a")(settle(mean + fa), train=train)
        b = Activation(self.activation, on=after_b, name="act_b")(settle(mean + fb), train=train)
        return a, b

    def _project(self, x: Array, train: bool, line: str) -> Array:
        x = conv(x, self.filters, 1, self.stride, kernel_init=he_normal, name=f"shortcut_conv_{line}")
        return batch_norm(x, train, epsilon=EPSILON, name=f"shortcut_bn_{line}")


class DFNMR(nn.Module):
    """DFN-MR of the *corresponding plain depth*: "depth 110" has 27 blocks and is 56 layers deep.

    The output activation of the last block stays whatever the placement.
    """

    depth: int
    num_classes: int
    activation: ActivationLike = "relu"
    placement: Placement = PAIRED
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:  # (N, H, W, C) → (N, num_classes)
        blocks = (self.depth - 2) // 4  # each stands for four layers of a plain network
        if blocks < 3:
            raise InputError(
                f"DFNMR depth, that of the corresponding plain network, must be 14 or more; got {self.depth}"
            )
        ends = [blocks * stage // 3 for stage in range(4)]  # 6, 7, 7 blocks where three do not divide them
        x = as_images(images, self.dtype)
        x = conv(x, 16, kernel_init=he_normal, name="stem_conv")
        x = batch_norm(x, train, epsilon=EPSILON, name="stem_bn")
        a = b = Activation(self.activation, name="stem_act")(x, train=train)
        for stage, filters in enumerate((16, 32, 64)):
            for index in range(ends[stage], ends[stage + 1]):
                stride = 2 if stage > 0 and index == ends[stage] else 1
                slots = slots_of(self.placement, index, places=4)
                name = f"stage{stage + 1}_block{index - ends[stage] + 1}"
                block = Block(filters, stride, self.activation, slots, last=index == blocks - 1, name=name)
                a, b = block(a, b, train=train)
        x = global_average_pool(a)
        return dense(x, self.num_classes, kernel_init=torch_uniform, name="head").astype(jnp.float32)
