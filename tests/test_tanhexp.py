import re
from functools import partial

import jax
import numpy as np
import pytest

from experiments import tanhexp as studies
from experiments import tanhexp_measured as measured
from relujax.activations import ACTIVATIONS, mish, relu6, tanhexp
from relujax.models.landscape import OutputLandscape

X = np.linspace(-5, 3.5, 86)


@pytest.mark.parametrize("function, name", [(tanhexp, "TanhExp"), (mish, "Mish")])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_formulas_timed_in_numpy_are_the_functions_and_their_derivatives(function, name, order):
    ours = measured.FORMULAS[f"{name}, {measured.PARTS[order]}"](X)
    with jax.enable_x64(True):
        theirs = measured.derivative(function, order)(jax.numpy.asarray(X))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["relu", "elu", "silu", "mish", "tanhexp"])
def test_derivatives_of_a_large_array_are_elementwise(name):
    x = np.float32(X)
    first, second = (measured.derivative(ACTIVATIONS[name], order)(x) for order in (1, 2))
    gradient = jax.grad(ACTIVATIONS[name])
    np.testing.assert_allclose(first, jax.vmap(gradient)(x), atol=1e-5)
    np.testing.assert_allclose(second, jax.vmap(jax.grad(gradient))(x), atol=1e-5)


def test_curves_have_the_facts_that_the_paper_states():
    curve = measured.curve(tanhexp)
    np.testing.assert_allclose(curve["minimum"], -0.3532, atol=1e-4)
    assert curve["distance_from_x_beyond_1"] <= 0.01
    slopes = {name: row()["slope_at_0"] for name, row in measured.DERIVATIVES.items()}
    assert slopes["TanhExp"] > slopes["Mish"] > slopes["Swish"]


def test_the_sharpest_bend_is_that_of_the_sharpest_corner():
    slope = np.abs(np.arange(11) - 5.0) / 5  # one corner, where the slope changes by 2 / 5
    surface = np.broadcast_to(slope, (7, 11))
    np.testing.assert_allclose(measured.sharpest_bend(np.stack([surface, 0 * surface])), [0.4, 0], atol=1e-12)
    np.testing.assert_allclose(measured.sharpest_bend(surface.T), 0.4)
    np.testing.assert_allclose(measured.scaled(3 * surface[None] - 1), surface[None])


def test_landscapes_share_their_weights_between_activations():
    point = np.zeros((1, 2), np.float32)
    tanhexps, mishes = (OutputLandscape(f).init(jax.random.key(3), point, train=False) for f in (tanhexp, mish))
    jax.tree.map(np.testing.assert_array_equal, tanhexps, mishes)


def test_studies_share_the_runs_that_they_have_in_common():
    fig_5 = studies.fig_5_mnist_learning_speed().trials
    fig_7 = studies.fig_7_mnist_depth().trials
    assert all(fig_7[f"{name}, 15 layers"] == trial for name, trial in fig_5.items())
    assert studies.fig_8_gaussian_dropout().trials["TanhExp without Gaussian noise"] == fig_5["TanhExp"]
    fig_9 = studies.fig_9_alpha_dropout().trials
    assert all(fig_9[name] == trial for name, trial in studies.fig_10_representations().trials.items())
    assert fig_9["TanhExp without alpha dropout"] == fig_5["TanhExp"]


def test_the_relu_of_mobilenet_v2_is_that_of_its_authors():
    trials = studies.table_1_cifar10().trials
    assert trials["MobileNet v2, ReLU"].model.activation is relu6
    assert [label for label, trial in trials.items() if trial.model.activation is relu6] == ["MobileNet v2, ReLU"]


def test_claims_on_cifar_are_those_that_the_tables_support():
    def networks(study):
        return {re.search(r"on (.+)\.$", stated.words)[1] for stated in study.claims}

    every = set(studies.CIFAR_10)
    assert every - networks(studies.table_1_cifar10()) == {"SE-Net34"}
    assert every - networks(studies.table_2_cifar100()) == {"Resnet32"}


def test_a_row_of_times_is_in_microseconds():
    assert measured.time_of(partial(dict, f=np.array([2e-6, 3e-6])), "f")["microseconds"] == pytest.approx([2, 3])
