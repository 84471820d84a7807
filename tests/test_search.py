"""Gates that learn where activations should stand, and what they are compared with."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import search
from relujax import report, runner
from relujax.errors import InputError
from relujax.gates import Gated, OpenLargest, OpenRandom, OpenThese, gates_of, openness
from relujax.layers import count_sites
from relujax.models.mlp import MLP
from relujax.models.plain import Plain
from relujax.study import adapt

IMAGES = np.linspace(-1, 1, 2 * 6 * 6, dtype=np.float32).reshape(2, 6, 6, 1)
NET = MLP(depth=3, width=16, num_classes=10, activation=Gated("relu"))


def params_of(model, seed=0, shape=IMAGES.shape):
    """Weights of the network without the time that compiling its initialisers takes; gates at 0."""
    images, generator = jax.ShapeDtypeStruct(shape, "float32"), np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)["params"]
    return jax.tree.map(lambda leaf: generator.normal(0, leaf.ndim > 0, leaf.shape).astype(np.float32), shapes)


def with_gates(params, values):
    """The same parameters with these gates."""
    values = iter(values)

    def replaced(path, leaf):
        return jnp.float32(next(values)) if path[-1].key == "gate" else leaf

    return jax.tree_util.tree_map_with_path(replaced, params)


def test_a_gate_at_zero_gives_the_mean_and_with_relu_a_leaky_relu_of_slope_one_minus_g():
    x = np.linspace(-3, 3, 13, dtype=np.float32)
    for gate in (-0.2, 0.0, 0.1):
        share = 1 / (1 + np.exp(-10 * gate))
        expected = np.where(x > 0, x, (1 - share) * x)
        np.testing.assert_allclose(
            Gated("relu").apply({"params": {"gate": jnp.float32(gate)}}, x, train=False), expected, atol=1e-6
        )


def test_every_site_has_a_gate_of_its_own_and_is_counted():
    assert len(gates_of(params_of(NET))) == 3
    assert (
        len(gates_of(params_of(Plain(8, 10, activation=Gated("relu")), shape=(1, 8, 8, 3)))) == 7
    )  # six layers and the stem


def test_fixed_gates_give_the_network_with_the_activation_there_and_the_identity_elsewhere():
    """All open is the network with ReLU, all shut the one without, to the bit; and no gradient moves a gate."""
    fresh = params_of(NET)
    weights = {name: own for name, own in fresh.items() if not name.startswith("act")}
    for flags, activation in (((True,) * 3, "relu"), ((False,) * 3, "identity")):
        params = OpenThese(flags)(fresh, None, jnp.int32(0))
        plain = NET.clone(activation=activation).apply({"params": weights}, IMAGES, train=False)
        np.testing.assert_array_equal(NET.apply({"params": params}, IMAGES, train=False), plain)
        slopes = jax.grad(lambda params: jnp.sum(NET.apply({"params": params}, IMAGES, train=True) ** 2))(params)
        assert all(slope == 0 for slope in gates_of(slopes))
        assert any(np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_the_largest_gates_are_opened_and_the_weights_are_fresh():
    fresh, earlier = params_of(NET), with_gates(params_of(NET, seed=1), (0.3, -0.1, 0.2))
    for count, opened in ((0, [0, 0, 0]), (1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1])):
        params = OpenLargest(count)(fresh, earlier, jnp.int32(0))
        assert [float(openness(gate)) for gate in gates_of(params)] == opened
        np.testing.assert_array_equal(params["dense1"]["kernel"], fresh["dense1"]["kernel"])


def test_random_places_depend_on_the_seed_alone_and_every_site_has_the_same_chance():
    fresh = params_of(MLP(depth=6, width=2, num_classes=10, activation=Gated("relu")))
    seeds = jnp.arange(2000)
    params = jax.jit(jax.vmap(lambda seed: OpenRandom(2)(fresh, None, seed)))(seeds)
    opened = np.stack([openness(gate) for gate in gates_of(params)], axis=1)
    assert (opened.sum(axis=1) == 2).all()
    # A count of 2,000 draws with chance 1/3 has a standard deviation of 21.
    np.testing.assert_allclose(opened.sum(axis=0), 2000 / 3, atol=5 * 21)
    assert len({tuple(own) for own in opened}) == 15  # all pairs of six


@pytest.mark.parametrize(
    "begin, earlier, message",
    [
        (OpenLargest(2), False, "needs an earlier phase that has learned the gates"),
        (OpenLargest(4), True, "has 3 gates, of which 0 to 3 can be open; got 4"),
        (OpenRandom(-1), False, "has 3 gates, of which 0 to 3 can be open; got -1"),
        (OpenThese((True, False)), False, "has 3 gates, which need a flag each; got 2 flags"),
    ],
)
def test_placements_that_do_not_fit_the_network_are_refused(begin, earlier, message):
    params = params_of(NET)
    with pytest.raises(InputError, match=message):
        begin(params, params if earlier else None, jnp.int32(0))


@pytest.mark.parametrize("activation, words", [("prelu", "without parameters"), ("crelu", "keeps the shape")])
def test_activations_that_cannot_be_mixed_with_the_identity_are_refused(activation, words):
    with pytest.raises(InputError, match=words):
        params_of(NET.clone(activation=Gated(activation)))


def test_learned_and_random_placements_are_trained_and_recorded(tmp_path):
    """Two seeds of the study on digits: where the ReLUs stand is where the gates of the same seed opened furthest."""
    small = replace(search.DENSE, model=search.DENSE.model.clone(depth=3, width=32))
    whole = search.learned_placement()
    trials = search._placements(small, 2)
    claims = tuple(each for each in whole.claims if set(each.claim.others) <= set(trials))
    study = replace(whole, trials=trials, claims=claims)
    study = adapt(study, data="digits", epochs=1, runs=2)
    results = runner.run(study, workdir=tmp_path, name="study", only=(search.LEARNED, search.RANDOM))
    names = [f"gate_{site}" for site in (1, 2, 3)]

    def gates(row, seed):
        return np.array([results[row][seed].last(name) for name in names])

    for seed in (0, 1):
        learned = gates(search.GATES, seed)
        assert len(set(learned)) == 3 and ((learned > 0) & (learned < 1)).all()
        np.testing.assert_array_equal(gates(search.LEARNED, seed), learned > learned.min())
        assert gates(search.RANDOM, seed).sum() == 2
    # Weights are fresh: the first epoch of the second phase begins where that of the first did.
    assert results[search.LEARNED][0].last("train_loss") > results[search.GATES][0].last("test_loss")
    assert "as many random places" in report.markdown(study, results)


def test_rows_differ_in_network_and_placement_alone():
    for study in (search.learned_placement(), search.learned_placement_plain(), search.random_placement()):
        rest = [replace(trial, model=None, begin=None, start_from=None, probes=()) for trial in study.trials.values()]
        assert all(trial == rest[0] for trial in rest)
    assert search.learned_placement().trials[search.RANDOM] == search.random_placement().trials["4 of 8"]
    trials = search.learned_placement_plain().trials
    images = (1, 32, 32, 3)
    assert count_sites(trials[search.LEARNED].model, images) == search.PLAIN_SITES
    assert count_sites(trials[search.REGULAR].model, images) == search.PLAIN_KEPT
