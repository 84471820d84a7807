"""The untrained network behind the output landscapes of TanhExp, Liu & Di, arXiv:2003.09855, section 3.2, Fig. 3.

Deviation: the paper says "a simple 5-layer fully connected network" and no more; the four dense layers of the Mish
scripts, called 5-layer there too, with an activation after every one of them and Torch's default initialization.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from relujax.activations import ActivationLike
from relujax.errors import InputError
from relujax.initializers import torch_bias, torch_uniform
from relujax.layers import Activation, dense


class OutputLandscape(nn.Module):
    """2 – 64 – 32 – 16 – 1: from coordinates (N, 2) to heights (N, 1)."""

    activation: ActivationLike = "tanhexp"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, points: Array, *, train: bool) -> Array:
        if points.ndim != 2 or points.shape[1] != 2:
            raise InputError(f"points must have shape (N, 2), e.g. (10000, 2) for a grid; got {points.shape}")
        x = points.astype(self.dtype)
        for layer, width in enumerate((64, 32, 16, 1), start=1):
            x = dense(x, width, kernel_init=torch_uniform, bias=torch_bias, name=f"dense{layer}")
            x = Activation(self.activation, name=f"act{layer}")(x, train=train)
        return x.astype(jnp.float32)
