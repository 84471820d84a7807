"""The convolutions of runs that train at once: the same numbers, in another number of operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from relujax.convolution import convolutions_apart
from relujax.initializers import he_normal
from relujax.layers import conv, global_average_pool

RUNS = 3


class Small(nn.Module):
    """A convolution with stride, one with bias and one in groups."""

    @nn.compact
    def __call__(self, images):
        x = conv(images, 8, stride=2, kernel_init=he_normal, name="first")
        x = jnp.tanh(
            conv(x, 8, 5, padding="VALID", bias=lambda _: nn.initializers.ones, kernel_init=he_normal, name="second")
        )
        return global_average_pool(conv(x, 8, groups=4, kernel_init=he_normal, name="third"))


def gradients(params, images):
    return jax.grad(lambda params: jnp.sum(jnp.sin(Small().apply({"params": params}, images))))(params)


@pytest.fixture(scope="module")
def runs():
    """Parameters and images of each run."""
    images = jax.random.normal(jax.random.key(0), (RUNS, 2, 12, 12, 3))
    init = jax.vmap(lambda key: Small().init(key, images[0])["params"])
    return init(jax.random.split(jax.random.key(1), RUNS)), images


def apart(function):
    return jax.jit(convolutions_apart()(jax.vmap(function)))


def test_every_run_gets_the_gradients_that_it_has_alone(runs):
    together = apart(gradients)(*runs)
    for run in range(RUNS):
        alone = gradients(*jax.tree.map(lambda leaf, run=run: leaf[run], runs))
        own = jax.tree.map(lambda leaf, run=run: leaf[run], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), own, alone)


def test_each_run_has_convolutions_of_its_own_and_all_else_is_one_operation(runs):
    lowered = apart(gradients).lower(*runs).as_text()
    vmapped = jax.jit(jax.vmap(gradients)).lower(*runs).as_text()
    each = 3 + 2 + 3  # forwards, gradients of inputs but the images, of kernels
    assert vmapped.count("stablehlo.convolution") == each
    assert lowered.count("stablehlo.convolution") == RUNS * each
    assert lowered.count("stablehlo.tanh") == vmapped.count("stablehlo.tanh") == 1
    assert f"feature_group_count = {RUNS} " not in lowered and f"feature_group_count = {RUNS} " in vmapped


def test_a_run_that_is_no_number_leaves_the_others_as_they_are(runs):
    params, images = runs
    spoilt = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), params)
    together, whole = apart(gradients)(spoilt, images), apart(gradients)(params, images)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours[::2], theirs[::2])
        assert np.isnan(ours[1]).all()


def test_images_that_all_runs_share_are_convolved_once(runs):
    params, images = runs
    forward = convolutions_apart()(
        jax.vmap(lambda params, images: Small().apply({"params": params}, images), (0, None))
    )
    own = [jax.tree.map(lambda leaf, run=run: leaf[run], params) for run in range(RUNS)]
    expected = jnp.stack([Small().apply({"params": params}, images[0]) for params in own])
    np.testing.assert_allclose(jax.jit(forward)(params, images[0]), expected, rtol=2e-5, atol=2e-6)


def test_outside_of_it_networks_differentiate_forwards(runs):
    params, images = jax.tree.map(lambda leaf: leaf[0], runs)
    value, slope = jax.jvp(lambda images: Small().apply({"params": params}, images), (images,), (images,))
    step = 1e-3
    beside = Small().apply({"params": params}, images * (1 + step)) - Small().apply(
        {"params": params}, images * (1 - step)
    )
    np.testing.assert_allclose(slope, beside / (2 * step), rtol=2e-2, atol=2e-3)
    assert value.shape == (2, 8)
