import jax
import numpy as np
import pytest
from flax import linen as nn

from relujax import initializers

CONV, DENSE = (3, 3, 64, 96), (800, 300)

# The variance of the drawn weights and whether they are uniform, as each source has it.
VARIANCES = [
    ("he_uniform", lambda fan_in, fan_out: 2 / fan_in, True),
    ("he_normal", lambda fan_in, fan_out: 2 / fan_in, False),
    ("he_normal_fan_out", lambda fan_in, fan_out: 2 / fan_out, False),
    ("glorot_uniform", lambda fan_in, fan_out: 2 / (fan_in + fan_out), True),
    ("torch_uniform", lambda fan_in, fan_out: 1 / (3 * fan_in), True),
]


@pytest.mark.parametrize("shape, fans", [(CONV, (9 * 64, 9 * 96)), (DENSE, DENSE)])
@pytest.mark.parametrize("name, variance, uniform", VARIANCES)
def test_drawn_weights_have_the_variance_of_their_source(name, variance, uniform, shape, fans):
    weights = np.array(getattr(initializers, name)(jax.random.key(0), shape))
    expected = variance(*fans)
    np.testing.assert_allclose(weights.var(), expected, rtol=0.03)
    assert abs(weights.mean()) < 0.01 * np.sqrt(expected)
    if uniform:
        # The largest of n draws from ±b is b · (1 − 1/n) or so; a normal distribution goes on beyond.
        np.testing.assert_allclose(np.abs(weights).max(), np.sqrt(3 * expected), rtol=1e-3)
    else:
        kurtosis = np.mean(weights**4) / weights.var() ** 2
        np.testing.assert_allclose(kurtosis, 3, rtol=0.05)  # 1.8 if uniform, 2.1 if cut off at two deviations


@pytest.mark.parametrize("shape", [CONV, DENSE, (5, 5, 1, 30)])
def test_the_numbers_are_those_of_flax(shape):
    for name, given in (
        ("he_normal", (2.0, "fan_in", "normal")),
        ("he_normal_fan_out", (2.0, "fan_out", "normal")),
        ("glorot_uniform", (1.0, "fan_avg", "uniform")),
        ("torch_uniform", (1 / 3, "fan_in", "uniform")),
    ):
        expected = nn.initializers.variance_scaling(*given)(jax.random.key(3), shape)
        np.testing.assert_array_equal(getattr(initializers, name)(jax.random.key(3), shape), expected)


def test_biases_are_zero_or_within_torch_bounds():
    assert not np.any(initializers.zero_bias(10)(jax.random.key(0), (1000,)))
    bias = np.array(initializers.torch_bias(25)(jax.random.key(0), (100_000,)))
    np.testing.assert_allclose([bias.min(), bias.max(), bias.var()], [-0.2, 0.2, 0.04 / 3], rtol=0.02)
