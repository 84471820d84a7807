import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from relujax.activations import ACTIVATIONS, PReLU, relu, tanhexp
from relujax.errors import InputError
from relujax.layers import Activation, count, count_layers, count_parameters, count_sites, max_pool, ratio, watch
from relujax.models.mlp import MLP, Autoencoder
from relujax.models.resnet import ResNet

IMAGES = (2, 28, 28, 1)

# Section 4.1 and appendix C of the ELU paper; the counts follow from the widths.
NETWORKS = [
    (MLP(depth=8, width=128, num_classes=10, activation="elu"), 217_354, 9, 8),
    (MLP(depth=5, width=256, num_classes=10, activation="relu"), 466_698, 6, 5),
    (Autoencoder(activation="elu"), 2_837_314, 8, 7),
    (Autoencoder(activation="elu", output="identity"), 2_837_314, 8, 6),
]


@pytest.mark.parametrize("model, parameters, layers, sites", NETWORKS)
def test_counts_match_the_paper(model, parameters, layers, sites):
    assert count_parameters(model, IMAGES) == parameters
    assert count_layers(model, IMAGES) == layers
    assert count_sites(model, IMAGES) == sites
    assert ratio(model, IMAGES) == (layers, sites)


# Li et al., arXiv:1608.08710, table 1, which names multiply-adds FLOP.
@pytest.mark.parametrize("depth, multiply_adds", [(56, 1.25e8), (110, 2.53e8)])
def test_multiply_adds_match_the_literature(depth, multiply_adds):
    found = count(ResNet(depth=depth, num_classes=10), (2, 32, 32, 3)).multiply_adds
    assert float(f"{found:.3g}") == multiply_adds


def test_costs_of_grouped_transposed_and_dense_layers_are_those_by_hand():
    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            x = nn.Conv(6, (3, 3), 2, feature_group_count=3)(images)  # 4 · 4 · 6 outputs of 9 inputs each
            x = nn.ConvTranspose(5, (2, 2), (2, 2))(x)  # 4 · 4 inputs of 6 channels to 5 channels at 4 places each
            x = Activation(relu)(nn.BatchNorm(use_running_average=True)(x))  # 8 · 8 · 5 outputs each
            return nn.Dense(7)(Activation(relu, on=False)(x.reshape(x.shape[0], -1)))

    found = count(Mixed(), (2, 8, 8, 3))
    assert found.multiply_adds == 4 * 4 * 6 * 9 + 4 * 4 * 6 * 5 * 4 + 8 * 8 * 5 * 7
    assert found.activation_bytes == 4 * (4 * 4 * 6 + 3 * 8 * 8 * 5 + 7)


def test_a_site_that_is_off_is_the_identity_and_does_not_count():
    x = jnp.array([[-1.0, 2.0]])
    assert np.array_equal(Activation(relu, on=False).apply({}, x), x)
    assert np.array_equal(Activation(relu).apply({}, x), [[0.0, 2.0]])

    class OneOfTwo(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return Activation(relu)(Activation(relu, on=False)(images))

    assert count_sites(OneOfTwo(), IMAGES) == 1


def test_an_activation_with_parameters_gets_its_own_at_every_site():
    model = MLP(depth=3, width=5, num_classes=10, activation=PReLU())
    params = model.init(jax.random.key(0), jnp.ones(IMAGES), train=False)["params"]
    learned = [path for path, _ in jax.tree_util.tree_leaves_with_path(params) if "act" in str(path[0])]
    assert len(learned) == 3
    assert count_parameters(model, IMAGES) == 784 * 5 + 5 + 2 * (25 + 5) + 60 + 3 * 5


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"crelu"}))
def test_every_activation_can_be_named_in_a_network(name):
    model = MLP(depth=2, width=4, num_classes=3, activation=name)
    assert count_sites(model, IMAGES) == (0 if name == "identity" else 2)
    images = jax.random.normal(jax.random.key(0), IMAGES)
    variables = model.init(jax.random.key(1), images, train=False)
    logits = model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(2)})
    assert logits.shape == (2, 3) and jnp.isfinite(logits).all()


def test_watch_gives_every_site_in_order_and_what_it_puts_out():
    model = MLP(depth=11, width=4, num_classes=3, activation=relu)
    images = jax.random.normal(jax.random.key(0), IMAGES)
    variables = model.init(jax.random.key(1), images, train=False)
    outputs = watch(model, variables, images)
    assert list(outputs) == [f"act{layer}" for layer in range(1, 12)]
    first = variables["params"]["dense1"]
    expected = np.maximum(np.asarray(images).reshape(2, -1) @ first["kernel"] + first["bias"], 0)
    np.testing.assert_allclose(outputs["act1"], expected, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_whatever_the_activation():
    images = jnp.ones(IMAGES)
    ours, theirs = (
        MLP(depth=8, width=128, num_classes=10, activation=f).init(jax.random.key(3), images, train=False)
        for f in (relu, tanhexp)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_initial_weights_are_he_uniform():
    params = MLP(depth=8, width=128, num_classes=10, activation=relu).init(
        jax.random.key(0), jnp.ones(IMAGES), train=False
    )["params"]
    kernel = np.asarray(params["dense1"]["kernel"])
    bound = (6 / 784) ** 0.5
    assert np.abs(kernel).max() <= bound
    assert np.abs(kernel).max() > 0.999 * bound
    np.testing.assert_allclose(kernel.var(), 2 / 784, rtol=0.02)
    assert not np.any(params["dense1"]["bias"])


def test_bf16_computes_in_bf16_with_float32_parameters_and_logits():
    model = MLP(depth=2, width=8, num_classes=10, activation="elu", dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(0), jnp.ones(IMAGES), train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert model.apply(variables, jnp.ones(IMAGES), train=False).dtype == jnp.float32
    assert {output.dtype for output in watch(model, variables, jnp.ones(IMAGES)).values()} == {jnp.dtype("bfloat16")}


def test_an_input_that_is_no_image_is_refused_with_its_shape():
    with pytest.raises(InputError, match=r"\(N, H, W, C\).*\(2, 784\)"):
        MLP(depth=2, width=8, num_classes=10, activation="elu").init(jax.random.key(0), jnp.ones((2, 784)), train=False)


@pytest.mark.parametrize("padding, size", [("VALID", 7), ("SAME", 7), ("SAME", 8)])
def test_pooling_is_that_of_flax_with_its_gradient_equal_pixels_included(padding, size):
    rounded = jnp.round(2 * jax.random.normal(jax.random.key(0), (2, size, size, 3)))  # many are equal
    towards = jax.random.normal(jax.random.key(1), (2, *2 * ((size + (padding == "SAME")) // 2,), 3))
    ours, our_gradient = jax.vjp(lambda x: max_pool(x, padding), rounded)
    theirs, their_gradient = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2), padding), rounded)
    assert np.array_equal(ours, theirs)
    assert np.array_equal(our_gradient(towards)[0], their_gradient(towards)[0])


@pytest.mark.parametrize("place", range(4))
def test_pooling_hides_no_nan(place):
    assert np.isnan(max_pool(jnp.ones(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1))).all()
