"""The closed forms of the ELU paper's theorems against the inverse of the whole unit Fisher matrix, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import elu
from experiments import elu_measured as ng
from relujax.claims import Verdict, judge
from relujax.models.mlp import MLP
from relujax.study import as_runs

SEEDS = st.integers(0, 2**32 - 1)


def random_unit(seed, units=6, examples=80):
    """Correlated activations with means of either sign, weights over four decades, any gradient."""
    random = np.random.default_rng(seed)
    activations = random.normal(size=(examples, units)) @ random.normal(size=(units, units)) + random.normal(size=units)
    return activations, 10 ** random.uniform(-3, 1, examples), random.normal(size=units + 1)


def scale(activations, weights, gradient):
    """Digits that inverting the matrix costs, in the size of the update."""
    inverse = np.linalg.inv(ng.unit_fisher(activations, weights))
    return 1e-15 * np.linalg.cond(inverse) * np.abs(inverse @ gradient).max() * (1 + np.abs(activations).mean())


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_theorem_1_is_the_inverse_of_the_whole_matrix(seed):
    unit = random_unit(seed)
    direct = np.linalg.inv(ng.unit_fisher(*unit[:2])) @ unit[2]
    np.testing.assert_allclose(ng.corrected_update(*unit), direct, rtol=0, atol=100 * scale(*unit))


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_theorem_2_is_the_bias_shift_of_the_inverse_of_the_whole_matrix(seed):
    activations, weights, gradient = unit = random_unit(seed)
    direct = np.append(activations.mean(axis=0), 1) @ np.linalg.inv(ng.unit_fisher(activations, weights)) @ gradient
    assert ng.corrected_bias_shift(*unit) == pytest.approx(direct, abs=100 * scale(*unit))
    assert ng.natural_bias_shift(*unit) == pytest.approx(direct, abs=100 * scale(*unit))


@given(SEEDS)
def test_the_blocks_of_the_fisher_matrix_are_moments_under_both_distributions(seed):
    activations, weights, _ = random_unit(seed)
    fisher = ng.unit_fisher(activations, weights)
    examples = [np.outer(np.append(a, 1), np.append(a, 1)) * weight for a, weight in zip(activations, weights)]
    np.testing.assert_allclose(fisher, np.mean(examples, axis=0))
    # b = E_p(δ²) E_q(a), and also Cov_p(δ², a) + E_p(a) E_p(δ²): an offset and a term that carries information.
    of_q = np.average(activations, axis=0, weights=weights)
    np.testing.assert_allclose(fisher[-1, :-1], weights.mean() * of_q)
    covariance = np.mean((weights - weights.mean())[:, None] * activations, axis=0)
    np.testing.assert_allclose(of_q, activations.mean(axis=0) + covariance / weights.mean())


@given(SEEDS)
def test_where_every_example_weighs_the_same_only_the_bias_gradient_shifts_the_mean(seed):
    activations, _, gradient = random_unit(seed)
    weights = np.full(len(activations), 0.3)
    assert ng.correction(activations, weights) == pytest.approx(1)
    shift = ng.corrected_bias_shift(activations, weights, gradient)
    assert shift == pytest.approx(gradient[-1] / 0.3, abs=100 * scale(activations, weights, gradient))


@given(SEEDS)
def test_units_with_a_weighted_mean_of_zero_need_no_correction(seed):
    activations, weights, gradient = random_unit(seed)
    centred = activations - np.average(activations, axis=0, weights=weights)
    assert ng.correction(centred, weights) == pytest.approx(1)
    update, uncorrected = (
        ng.corrected_update(centred, weights, gradient),
        ng.uncorrected_update(centred, weights, gradient),
    )
    np.testing.assert_allclose(update, uncorrected, rtol=0, atol=100 * scale(centred, weights, gradient))


@given(SEEDS)
def test_the_larger_the_mean_the_larger_the_correction_of_the_bias(seed):
    activations, weights, _ = random_unit(seed)
    # Both distributions move alike, so k − 1 = (E_q − E_p)ᵀ Var_q⁻¹ E_q is linear in the offset.
    of_q = np.average(activations, axis=0, weights=weights)
    offset = of_q - activations.mean(axis=0)
    ks = [ng.correction(activations - of_q + t * offset, weights) for t in (0, 1, 2)]
    assert ks[0] == pytest.approx(1) and ks[0] < ks[1] < ks[2]
    assert ks[2] - 1 == pytest.approx(2 * (ks[1] - 1))


def test_one_incoming_unit_by_hand():
    activations, weights = np.array([[0.0], [2.0]]), np.array([1.0, 3.0])
    # F = [[6, 3], [3, 2]], its inverse [[2/3, −1], [−1, 2]]; E_q(a) = 1.5, Var_q(a) = 0.75, E_p(a) = 1.
    np.testing.assert_allclose(ng.unit_fisher(activations, weights), [[6, 3], [3, 2]])
    np.testing.assert_allclose(ng.corrected_update(activations, weights, np.array([3.0, 5.0])), [-3, 7])
    np.testing.assert_allclose(ng.uncorrected_update(activations, weights, np.array([3.0, 5.0])), [0.5, 2.5])
    assert ng.correction(activations, weights) == pytest.approx(2)
    assert ng.corrected_bias_shift(activations, weights, np.array([3.0, 5.0])) == pytest.approx(4)
    assert ng.uncorrected_bias_shift(activations, weights, np.array([3.0, 5.0])) == pytest.approx(3)


def test_statistics_of_a_layer_are_the_gradients_of_its_risk_and_of_its_log_outputs():
    random = np.random.default_rng(0)
    images = jnp.asarray(random.uniform(size=(20, 4, 4, 1)), jnp.float32)
    labels = jnp.asarray(random.integers(0, 10, 20))
    model = MLP(depth=2, width=5, num_classes=10, activation="elu")
    params = model.init(jax.random.key(0), images, train=False)["params"]

    def log_outputs(params, image):
        return jax.nn.log_softmax(model.apply({"params": params}, image[None], train=False)[0])

    activations, weights, gradients = ng.unit_statistics(model, params, images, labels)
    # The derivative by a unit's bias is that by its net input.
    each = jax.vmap(jax.jacobian(log_outputs), in_axes=(None, 0))(params, images)["dense2"]
    outputs = np.exp(jax.vmap(log_outputs, in_axes=(None, 0))(params, images))
    np.testing.assert_allclose(weights, np.einsum("nc,ncu->nu", outputs, each["bias"] ** 2), rtol=1e-4, atol=1e-7)
    risk = {part: -np.mean(each[part][np.arange(20), labels], axis=0) for part in ("kernel", "bias")}
    np.testing.assert_allclose(gradients, np.vstack([risk["kernel"], risk["bias"]]), rtol=1e-4, atol=1e-6)
    assert activations.shape == (20, 5)


@pytest.mark.parametrize("study", [elu.theorem_1_unit_natural_gradient, elu.theorem_2_bias_shift])
def test_both_theorems_hold_on_trained_units(study):
    measurement = study()
    results = {label: as_runs(measurement, label, row(), {}) for label, row in measurement.rows.items()}
    assert all(len(runs) == 10 for runs in results.values())
    for stated in measurement.claims:
        judgement = judge(stated, results)
        assert judgement.verdict is Verdict.REPRODUCED, judgement.finding
