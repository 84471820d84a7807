import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relujax.layers import watch
from relujax.models.deep_dense import DeepDense
from relujax.probes import MedianActivation, Representation, UnitMedians, column_medians, roughness


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 101])
def test_column_medians_are_the_lower_median_of_a_sort(rows):
    values = np.random.default_rng(rows).normal(size=(rows, 40)).astype(np.float32)
    values[:, :3] = np.maximum(values[:, :3], 0)  # many equal values, as after a ReLU
    values[:, 3] = -0.0
    values[0, 4], values[-1, 5] = np.inf, -np.inf
    expected = np.sort(values, axis=0)[(rows - 1) // 2]
    np.testing.assert_array_equal(column_medians(jnp.array(values)), expected)


def test_median_activation_is_the_median_over_units_of_their_means():
    outputs = {"act1": jnp.array([[0.0, 1.0], [2.0, 3.0]]), "act2": jnp.array([[10.0], [20.0]])}
    assert MedianActivation()(outputs)["median_activation"] == 2.0  # of the means 1, 2, 15


def test_unit_medians_has_one_value_per_unit_in_the_order_of_the_sites():
    outputs = {"act1": jnp.array([[0.0, 1.0], [2.0, 3.0], [9.0, 9.0]]), "act2": jnp.array([[5.0], [4.0], [6.0]])}
    np.testing.assert_array_equal(UnitMedians()(outputs)["unit_medians"], [2.0, 3.0, 5.0])


def test_units_of_a_convolution_are_all_its_numbers():
    outputs = {"act1": jnp.arange(24.0).reshape(3, 2, 2, 2), "act2": jnp.zeros((3, 1))}
    np.testing.assert_array_equal(UnitMedians()(outputs)["unit_medians"], [*range(8, 16), 0])


def test_roughness_is_the_mean_step_as_a_share_of_the_range_and_skips_constant_maps():
    ramp = jnp.broadcast_to(jnp.arange(5.0), (5, 5))  # steps of 1 across and 0 down, range 4
    checks = jnp.indices((5, 5)).sum(axis=0) % 2.0  # steps of 1 everywhere, range 1
    np.testing.assert_allclose(roughness(ramp[None]), 1 / 8)
    np.testing.assert_allclose(roughness(jnp.stack([ramp, checks, jnp.zeros((5, 5))])), (1 / 8 + 1) / 2)
    np.testing.assert_allclose(roughness(10 * ramp[None] - 3), 1 / 8, rtol=1e-6)
    assert roughness(jnp.zeros((2, 5, 5))) == 0


def test_representation_is_what_the_drop_out_of_fig_10_is_given():
    network = DeepDense(depth=4, num_classes=10, activation="mish", noise="alpha")
    images = jax.random.uniform(jax.random.key(0), (3, 28, 28, 1))

    @jax.jit
    def shown_and_found():
        variables = network.init(jax.random.key(1), images, train=False)
        _, state = network.apply(variables, images, train=False, capture_intermediates=True, mutable=["intermediates"])
        (shown,) = state["intermediates"]["conv_dropout"]["__call__"]
        return shown[0], Representation()(watch(network, variables, images))

    shown, found = shown_and_found()
    np.testing.assert_allclose(found["representation"], jnp.moveaxis(shown, -1, 0), rtol=1e-6)
    assert found["representation"].shape == (50, 10, 10)
    assert 0 < found["representation_roughness"] < 1
