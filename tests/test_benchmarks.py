"""The contenders of the benchmark do the same arithmetic; how long they take is no test."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relujax import datasets
from relujax.recipe import make_optimizer
from relujax.train import Split, init_state, keys, train_epoch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NET = {"depth": 3, "width": 16, "activation": "elu", "batch_size": 64, "learning_rate": 0.05}
STEPS = 15


def module(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def epoch():
    """relujax's epoch: the images, the initial params, the order of the batches, and what came out."""
    dataset = datasets.load("digits")
    images, labels = dataset.train_images[: STEPS * 64 + 5], dataset.train_labels[: STEPS * 64 + 5]
    trial = module("with_relujax").make_trial(**NET)
    optimizer, seed = make_optimizer(trial.recipe, STEPS), jnp.array(3)
    split = Split(jnp.array(images), jnp.array(labels))
    state = init_state(trial, optimizer, seed, split.images)
    after = jax.jit(lambda state: train_epoch(trial, optimizer, state, seed, split))(state)
    order = jax.random.permutation(jax.random.fold_in(keys(seed)[1], 0), len(images))
    batches = np.array(order[: STEPS * 64]).reshape(STEPS, 64)
    return images, labels, batches, *jax.device_get((state.params, after.params, after.sums))


def assert_same(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), ours, theirs)


def test_torch_reaches_the_same_losses_and_weights(epoch):
    pytest.importorskip("torch")
    images, labels, batches, before, after, sums = epoch
    torch_side = module("with_torch")
    model = torch_side.make_model(NET)
    torch_side.load_params(model, before)
    losses, errors = torch_side.train_epoch(
        torch_side.make_step(model, NET["learning_rate"]), *torch_side.tensors(images, labels), batches
    )
    assert losses[-1] < 0.8 * losses[0]
    assert_same((sums["loss"], sums["error"]), (np.sum(losses), np.sum(errors)))
    assert_same(after, torch_side.dump_params(model))


def test_plain_flax_reaches_the_same_losses_and_weights(epoch):
    images, labels, batches, before, after, sums = epoch
    flax_side = module("with_flax")
    state = flax_side.init(NET, seed=0).replace(params=jax.device_put(before))
    state, losses, errors = flax_side.train_epoch(state, images.astype(np.float32) / 255, labels, batches)
    assert_same((sums["loss"], sums["error"]), (np.sum(losses), np.sum(errors)))
    assert_same(after, jax.device_get(state.params))
