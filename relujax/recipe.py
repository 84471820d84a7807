"""Recipe: everything between data and network that is not the network, and its translation to Optax."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax import Array

from relujax.errors import InputError, check_choice

Loss = Literal["cross_entropy", "squared_error"]


@dataclass(frozen=True)
class Epochs:
    """A length in passes over the training images (each drops the last, incomplete batch)."""

    count: int


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """v ← μv + g, w ← w − ηv; with `nesterov`, w ← w − η(g + μv), Torch's form."""

    momentum: float = 0.0
    nesterov: bool = False


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Kingma & Ba 2015, bias-corrected."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class Constant:
    """One learning rate throughout."""

    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class StepDecay:
    """`learning_rates[k]` from epoch `starts[k]` on (0-based; the first start is 0)."""

    learning_rates: tuple[float, ...]
    starts: tuple[int, ...]

    def __post_init__(self):
        rising = list(self.starts) == sorted(self.starts) and self.starts[:1] == (0,)
        if len(self.learning_rates) != len(self.starts) or not rising:
            raise InputError(
                f"StepDecay needs a start for each learning rate, rising from 0; "
                f"got starts {self.starts} for {self.learning_rates}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained."""

    length: Epochs
    batch_size: int
    optimizer: Sgd | Adam
    schedule: Constant | StepDecay
    weight_decay: float = 0.0  # coupled L2, added to the gradient before momentum
    decayed: Literal["convolutions"] | None = None  # what decays: all parameters, or convolution kernels alone
    loss: Loss = "cross_entropy"

    def __post_init__(self):
        check_choice("loss", self.loss, get_args(Loss))
        for name, kinds in (("length", (Epochs,)), ("optimizer", (Sgd, Adam)), ("schedule", (Constant, StepDecay))):
            if not isinstance(getattr(self, name), kinds):
                valid = " or ".join(kind.__name__ for kind in kinds)
                raise InputError(f"a recipe's {name} is {valid}(...); got {getattr(self, name)!r}")
        for name, value in (("epochs", self.length.count), ("batch size", self.batch_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1; got {value}")
            if value != int(value):
                raise InputError(f"{name} must be a whole number; got {value}")

    def lasting(self, epochs: int) -> "Recipe":
        """The same recipe over `epochs` epochs; the steps of the schedule move in proportion."""
        schedule = self.schedule
        if isinstance(schedule, StepDecay):
            share = epochs / self.length.count
            schedule = replace(schedule, starts=tuple(round(start * share) for start in schedule.starts))
        return replace(self, length=Epochs(epochs), schedule=schedule)


def make_optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """The recipe as an Optax transformation: weight decay, then momentum or Adam, then the learning rate."""
    match recipe.schedule:
        case Constant(learning_rate):
            schedule = optax.constant_schedule(learning_rate)
        case StepDecay(learning_rates=rates, starts=starts):
            parts = [optax.constant_schedule(rate) for rate in rates]
            schedule = optax.join_schedules(parts, [start * steps_per_epoch for start in starts[1:]])
    match recipe.optimizer:
        case Sgd(momentum=momentum, nesterov=nesterov):
            descend = optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov)
        case Adam(b1=b1, b2=b2, eps=eps):
            descend = optax.adam(schedule, b1=b1, b2=b2, eps=eps)
    mask = _convolution_kernels if recipe.decayed else None
    decay = optax.add_decayed_weights(recipe.weight_decay, mask) if recipe.weight_decay else optax.identity()
    return optax.chain(decay, descend)


def _convolution_kernels(params: Any) -> Any:
    """Which leaves are (h, w, in, out)."""
    return jax.tree.map(lambda leaf: leaf.ndim == 4, params)


def losses(recipe: Recipe, outputs: Array, images: Array, labels: Array) -> Array:
    """One loss per example, (N,): cross-entropy in nats, or ½ Σ over pixels of (output − image)²."""
    if recipe.loss == "cross_entropy":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return jnp.sum(optax.l2_loss(outputs, images.reshape(images.shape[0], -1)), axis=-1)


def mistakes(recipe: Recipe, outputs: Array, labels: Array) -> dict[str, Array]:
    """{"error": 1 where the class is wrong, (N,)} for classifiers, nothing for an autoencoder.

    With 1,000 classes, as ImageNet has, also "top5_error": 1 where none of the five largest logits is right.
    """
    if recipe.loss != "cross_entropy":
        return {}
    wrong = {"error": jnp.argmax(outputs, axis=-1) != labels}
    if outputs.shape[-1] >= 1000:
        _, best = jax.lax.top_k(outputs, 5)
        wrong["top5_error"] = jnp.all(best != labels[:, None], axis=-1)
    return {name: value.astype(jnp.float32) for name, value in wrong.items()}
