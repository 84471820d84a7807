"""The benchmark's network trained as Flax's own examples do it: a jitted step, called from Python for every batch."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax import Array


class MLP(nn.Module):
    """`depth` hidden layers of `width` units, He-uniform with bias 0, then logits."""

    depth: int
    width: int
    activation: str

    @nn.compact
    def __call__(self, images: Array) -> Array:  # (N, H, W, C) → (N, 10)
        x = images.reshape(len(images), -1)
        dense = partial(nn.Dense, kernel_init=nn.initializers.he_uniform())
        for layer in range(1, self.depth + 1):
            x = getattr(nn, self.activation)(dense(self.width, name=f"dense{layer}")(x))
        return dense(10, name="head")(x)


def init(net: dict, seed: int) -> TrainState:
    model = MLP(net["depth"], net["width"], net["activation"])
    params = model.init(jax.random.key(seed), jnp.zeros((1, 28, 28, 1)))["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(net["learning_rate"]))


@jax.jit
def train_step(state: TrainState, images: Array, labels: Array) -> tuple[TrainState, Array, Array]:
    """One step; loss and error are means over the batch, measured before it."""

    def mean_loss(params):
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    (loss, logits), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients), loss, (logits.argmax(-1) != labels).mean()


def train_epoch(
    state: TrainState, images: np.ndarray, labels: np.ndarray, batches: np.ndarray
) -> tuple[TrainState, np.ndarray, np.ndarray]:
    """One pass over `batches`, indices (steps, batch_size); loss and error of every step."""
    losses, errors = [], []
    for chosen in batches:
        state, loss, error = train_step(state, images[chosen], labels[chosen])
        losses.append(loss)
        errors.append(error)
    return state, np.array(jax.device_get(losses)), np.array(jax.device_get(errors))


def contender(images: np.ndarray, labels: np.ndarray, net: dict, *, seed: int) -> Callable[[], float]:
    """An epoch of one run on float images in NumPy; returns its mean loss."""
    images = images.astype(np.float32) / 255
    generator = np.random.default_rng(seed)
    state, size = init(net, seed), net["batch_size"]

    def epoch() -> float:
        nonlocal state
        order = generator.permutation(len(images))[: len(images) // size * size]
        state, losses, _ = train_epoch(state, images, labels, order.reshape(-1, size))
        return float(losses.mean())

    return epoch
