"""A network through Flax's bridge to NNX, by the very lines that the documentation shows."""

import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from relujax.models.resnet import ResNet

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def test_the_shown_step_through_nnx_is_that_of_linen():
    key = jax.random.key(1)
    images, labels = jax.random.normal(key, (4, 8, 8, 3)), jnp.arange(4)
    (lines,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "ToNNX" in code]
    prepare, train = lines.split("\ndef ")
    shown = {"optax": optax, "images": images, "labels": labels}
    exec(prepare, shown)
    before = linen_variables(shown["model"])
    exec(f"def {train}", shown)
    after = linen_variables(shown["model"])

    network = ResNet(depth=8, num_classes=10)

    def mean_loss(params):
        logits, updates = network.apply({**before, "params": params}, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

    (loss, updates), gradient = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(before["params"])
    params = jax.tree.map(lambda param, slope: param - 0.1 * slope, before["params"], gradient)
    assert jax.tree.structure(before) == jax.tree.structure(network.init(key, images, train=False))
    np.testing.assert_allclose(shown["loss"], loss, rtol=1e-6)
    chex.assert_trees_all_close(after, {"params": params, **updates}, rtol=1e-5, atol=1e-6)
    for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after)):
        assert np.any(old != new), f"{jax.tree_util.keystr(path)} has not changed"

    logits = shown["model"](images, train=False)
    np.testing.assert_allclose(logits, network.apply(after, images, train=False), rtol=1e-5, atol=1e-5)


def linen_variables(model):
    """A copy of {"params": …, "batch_stats": …}."""
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    return {name: jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, kind))) for name, kind in kinds.items()}
