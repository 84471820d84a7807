"""The convolution behind `layers.conv`, and how those of many runs on one accelerator are computed.

Under `vmap` over weights XLA makes one grouped convolution of them, a group per run, for which cuDNN is slow.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

_apart = ContextVar("apart", default=False)


def convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`lax.conv_general_dilated`; within `convolutions_apart`, runs under `vmap` have one each."""

    def plain(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    return _each_apart(plain)(x, kernel) if _apart.get() else plain(x, kernel)


@contextmanager
def convolutions_apart() -> Iterator[None]:
    """Traced within, convolutions that are vmapped over runs are computed one after another, all else at once.

    Only for gradients in reverse mode. The numbers are those of each run alone, up to rounding.
    """
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def _each_apart(plain: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """`plain`, of which `vmap` makes one call per run, forwards and backwards."""

    def gradients(x: Array, kernel: Array, above: Array) -> tuple[Array, Array]:
        return jax.vjp(plain, x, kernel)[1](above)

    forward, backward = _one_by_one(plain), _one_by_one(gradients)
    convolution = jax.custom_vjp(forward)
    convolution.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), lambda kept, above: backward(*kept, above))
    return convolution


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of which `vmap` makes a call per element; what all elements share stays for XLA's own rule."""
    batched = custom_vmap(function)

    @batched.def_vmap
    def _(size: int, is_batched: list[bool], *arguments: Array) -> tuple[Any, Any]:
        if all(is_batched):
            calls = [function(*(argument[run] for argument in arguments)) for run in range(size)]
            outputs = jax.tree.map(lambda *values: jnp.stack(values), *calls)
        else:
            outputs = jax.vmap(function, [0 if batched else None for batched in is_batched])(*arguments)
        return outputs, jax.tree.map(lambda _: True, outputs)

    return batched
