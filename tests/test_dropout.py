import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relujax.activations import selu
from relujax.dropout import SELU_MINIMUM, AlphaDropout, GaussianDropout, alpha_affine
from relujax.errors import InputError

KINDS = [GaussianDropout, AlphaDropout]
N = 400_000


def drop(module, x, seed=0):
    return module.apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)})


def normal(seed=1):
    return jax.random.normal(jax.random.key(seed), (N,))


@pytest.mark.parametrize("rate, deviation", [(0.1, 1 / 3), (0.25, 3**-0.5), (0.5, 1.0), (0.8, 2.0)])
def test_gaussian_dropout_multiplies_by_noise_of_mean_one_and_keras_deviation(rate, deviation):
    x = jnp.full(N, -3.0)
    noise = np.asarray(drop(GaussianDropout(rate), x) / x, np.float64)
    assert abs(noise.mean() - 1) < 5 * deviation / N**0.5
    np.testing.assert_allclose(noise.std(), deviation, rtol=0.01)
    standard = (noise - 1) / deviation
    np.testing.assert_allclose((standard**4).mean(), 3, rtol=0.05)  # normal, not merely of that deviation


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.9])
def test_alpha_affine_keeps_mean_zero_and_variance_one(rate):
    a, b = alpha_affine(rate)
    mean = rate * SELU_MINIMUM
    variance = (1 - rate) + rate * SELU_MINIMUM**2 - mean**2
    assert abs(a * mean + b) < 1e-15
    assert abs(a * a * variance - 1) < 1e-14


def test_alpha_affine_at_the_papers_rate():
    np.testing.assert_allclose(alpha_affine(0.2), (0.878904, 0.309040), atol=5e-7)
    np.testing.assert_allclose(SELU_MINIMUM, -1.7580993, atol=5e-8)
    np.testing.assert_allclose(SELU_MINIMUM, selu(jnp.float32(-100)), rtol=1e-6)


def test_alpha_dropout_puts_selus_minimum_in_place_of_a_share_of_the_elements():
    x = normal()
    y = drop(AlphaDropout(0.2), x)
    a, b = alpha_affine(0.2)
    dropped = np.isclose(y, a * SELU_MINIMUM + b)
    assert abs(dropped.mean() - 0.2) < 5 * (0.16 / N) ** 0.5
    np.testing.assert_allclose(y[~dropped], a * x[~dropped] + b, atol=1e-6)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("function", [lambda x: x, selu])
def test_alpha_dropout_keeps_the_statistics_that_selu_keeps(rate, function):
    y = np.asarray(drop(AlphaDropout(rate), function(normal())), np.float64)
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_rate_zero_are_the_identity_and_need_no_randomness(kind):
    x = normal()
    assert np.array_equal(kind(0.25).apply({}, x, train=False), x)
    assert np.array_equal(kind(0.0).apply({}, x, train=True), x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_decides_the_noise(kind):
    x = normal()[:1000].reshape(10, 10, 10)
    assert np.array_equal(drop(kind(0.3), x, seed=4), drop(kind(0.3), x, seed=4))
    assert not np.array_equal(drop(kind(0.3), x, seed=4), drop(kind(0.3), x, seed=5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_shape_and_dtype_are_kept_and_gradients_finite(kind, dtype):
    x = normal()[:600].reshape(2, 3, 4, 25).astype(dtype)
    y, slope = jax.vjp(lambda x: drop(kind(0.25), x), x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert jnp.isfinite(y).all() and jnp.isfinite(slope(jnp.ones_like(y))[0]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [-0.1, 1.0, 25, float("nan")])
def test_a_rate_that_is_no_probability_below_one_is_refused(kind, rate):
    with pytest.raises(InputError, match=r"at least 0 and below 1.*got"):
        kind(rate).apply({}, jnp.ones(3), train=False)
