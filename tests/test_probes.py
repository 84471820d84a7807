import jax.numpy as jnp
import numpy as np
import pytest

from relujax.probes import MedianActivation, UnitMedians, column_medians


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
