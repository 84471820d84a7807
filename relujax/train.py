"""Training as pure functions: one step, one epoch, one evaluation; several runs at once over the mesh axis "run".

Every random number is a function of (seed, epoch or step, example), so a state is all that a run needs to go on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from relujax.data import augment
from relujax.layers import is_convolutional, watch
from relujax.recipe import losses, make_optimizer, mistakes
from relujax.sharding import on_cpu
from relujax.trial import Trial

Metrics = dict[str, Array]
EVALUATION_BATCH = 1000  # images; only memory depends on it

# Of convolutional programs on CPU. The library that XLA hands convolutions to by default takes two to six times as long
# for a filter gradient as XLA's own code; and the barriers in `layers.settle` only last if no pass removes them early.
CPU_CONVOLUTIONS = {"xla_cpu_experimental_ynn_fusion_type": "", "xla_disable_hlo_passes": "cse_barrier_expander"}


@struct.dataclass
class TrainState:
    """What changes while a run trains; everything else is static or derived from the seed."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState


@struct.dataclass
class Split:
    """Images (N, H, W, C) as uint8 and labels (N,) as int32."""

    images: Array
    labels: Array

    def __len__(self) -> int:
        return self.images.shape[0]


def keys(seed: Array) -> tuple[Array, Array, Array]:
    """The keys of a run: initial weights, order of the images, and everything drawn within a step."""
    init_key, order_key, step_key = jax.random.split(jax.random.key(seed), 3)
    return init_key, order_key, step_key


def init_state(trial: Trial, optimizer: optax.GradientTransformation, seed: Array, images: Array) -> TrainState:
    """The state before the first step: the same initial weights for the same seed, whatever the activation."""
    init_key, _, _ = keys(seed)
    variables = trial.model.init(init_key, trial.data.normalize(images[:1]), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))


def train_step(
    trial: Trial, optimizer: optax.GradientTransformation, state: TrainState, batch: Split, key: Array
) -> tuple[TrainState, Metrics]:
    """One step of the recipe on one batch; metrics are means over the batch, measured before the step."""
    augment_key, dropout_key = jax.random.split(key)
    images = trial.data.normalize(batch.images)
    images = augment(trial.data, jax.random.split(augment_key, len(batch)), images)

    def mean_loss(params: Any) -> tuple[Array, Any]:
        outputs, updates = trial.model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        return jnp.mean(losses(trial.recipe, outputs, images, batch.labels)), (outputs, updates)

    (loss, (outputs, updates)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    changes, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, changes)
    metrics = {"loss": loss} | jax.tree.map(jnp.mean, mistakes(trial.recipe, outputs, batch.labels))
    return TrainState(state.step + 1, params, updates.get("batch_stats", {}), opt_state), metrics


def train_epoch(
    trial: Trial, optimizer: optax.GradientTransformation, state: TrainState, seed: Array, images: Split
) -> tuple[TrainState, Metrics]:
    """One pass in a new order, as one scan; metrics of every step, (steps,).

    The images that do not fill the last batch sit out; which ones differs from epoch to epoch.
    """
    order = epoch_order(trial, state, seed, images)
    return lax.scan(lambda state, _: next_step(trial, optimizer, state, seed, order, images), state, length=len(order))


def epoch_order(trial: Trial, state: TrainState, seed: Array, images: Split) -> Array:
    """The images of each step of the epoch that `state` is in, (steps, batch_size)."""
    _, order_key, _ = keys(seed)
    batch_size = trial.recipe.batch_size
    steps = len(images) // batch_size
    order = jax.random.permutation(jax.random.fold_in(order_key, state.step // steps), len(images))
    return order[: steps * batch_size].reshape(steps, batch_size)


def next_step(
    trial: Trial, optimizer: optax.GradientTransformation, state: TrainState, seed: Array, order: Array, images: Split
) -> tuple[TrainState, Metrics]:
    """The step that follows `state` in its epoch's `order`."""
    chosen = order[state.step % len(order)]
    batch = Split(images.images[chosen], images.labels[chosen])
    _, _, step_key = keys(seed)
    return train_step(trial, optimizer, state, batch, jax.random.fold_in(step_key, state.step))


def eval_step(trial: Trial, state: TrainState, batch: Split, weights: Array) -> Metrics:
    """Sums over the examples of a batch, each counted with its weight, so that sizes need not divide."""
    images = trial.data.normalize(batch.images)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    outputs = cast(Array, trial.model.apply(variables, images, train=False))
    values = {"loss": losses(trial.recipe, outputs, images, batch.labels)}
    values |= mistakes(trial.recipe, outputs, batch.labels)
    return jax.tree.map(lambda value: jnp.sum(jnp.where(weights > 0, value, 0)), values)


def evaluate(trial: Trial, state: TrainState, images: Split) -> Metrics:
    """Mean loss and error over all of `images`, each example exactly once."""
    size = min(EVALUATION_BATCH, len(images))
    batches = -(-len(images) // size)
    # The last batch is filled up with copies of image 0 that weigh nothing.
    index = jnp.arange(batches * size)
    weights = (index < len(images)).astype(jnp.float32)
    index = jnp.where(index < len(images), index, 0)

    def sums_of_batch(rows: tuple[Array, Array]) -> Metrics:
        chosen, weight = rows
        return eval_step(trial, state, Split(images.images[chosen], images.labels[chosen]), weight)

    sums = lax.map(sums_of_batch, (index.reshape(batches, size), weights.reshape(batches, size)))
    return jax.tree.map(lambda value: jnp.sum(value) / len(images), sums)


def probe(trial: Trial, state: TrainState, images: Split) -> Metrics:
    """What the trial's probes see in the network's activations on training images."""
    values: Metrics = {}
    for looker in trial.probes:
        seen = trial.data.normalize(images.images[: looker.images])
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        values |= looker(watch(trial.model, variables, seen))
    return values


@dataclass(frozen=True)
class Programs:
    """A trial compiled for several runs at once; states, seeds and metrics carry a leading run axis."""

    init: Callable[[Array, Split], TrainState]  # seeds, train
    epoch: Callable[[TrainState, Array, Split, dict[str, Split]], tuple[TrainState, Metrics]]  # state is donated
    test: Callable[[TrainState, Split], Metrics]


def compile_programs(trial: Trial, mesh: Mesh, train_shape: tuple[int, ...]) -> Programs:
    """The trial's programs for `mesh` and training images (N, H, W, C); each compiles when it is first called."""
    optimizer = make_optimizer(trial.recipe, train_shape[0] // trial.recipe.batch_size)
    # XLA's CPU backend runs the gradients of a convolution inside a loop by a naive method, many times slower.
    in_turn = on_cpu(mesh) and is_convolutional(trial.model, (1, *train_shape[1:]))

    def init(seed: Array, train: Split) -> TrainState:
        return init_state(trial, optimizer, seed, train.images)

    def measure(state: TrainState, train: Split, others: dict[str, Split]) -> Metrics:
        parts = {part: evaluate(trial, state, images) for part, images in others.items()}
        metrics = {f"{part}_{name}": value for part, found in parts.items() for name, value in found.items()}
        return metrics | probe(trial, state, train)

    def epoch(state: TrainState, seed: Array, train: Split, others: dict[str, Split]) -> tuple[TrainState, Metrics]:
        state, steps = train_epoch(trial, optimizer, state, seed, train)
        return state, _of_steps(steps) | measure(state, train, others)

    def compiled(function: Callable, shared: int, donated: tuple[int, ...] = ()) -> Callable:
        options = CPU_CONVOLUTIONS if in_turn else None
        return jax.jit(_each_run(mesh, function, shared), donate_argnums=donated, compiler_options=options)

    programs = Programs(
        init=compiled(init, shared=1),
        epoch=compiled(epoch, shared=2, donated=(0,)),
        test=compiled(partial(evaluate, trial), shared=1),
    )
    if not in_turn:
        return programs
    order_of = compiled(partial(epoch_order, trial), shared=1)
    one_step = compiled(partial(next_step, trial, optimizer), shared=1, donated=(0,))
    measured = compiled(measure, shared=2)

    def epoch_step_by_step(
        states: TrainState, seeds: Array, train: Split, others: dict[str, Split]
    ) -> tuple[TrainState, Metrics]:
        order, steps = order_of(states, seeds, train), []
        for _ in range(order.shape[1]):
            states, metrics = one_step(states, seeds, order, train)
            steps.append(metrics)
        together = jax.tree.map(lambda *values: np.stack(values, axis=1), *jax.device_get(steps))
        return states, _of_steps(together) | measured(states, train, others)

    return replace(programs, epoch=epoch_step_by_step)


def _of_steps(steps: Mapping[str, Any]) -> Metrics:
    """An epoch's training metrics from those of its steps, (…, steps)."""
    means = {f"train_{name}": values.mean(axis=-1) for name, values in steps.items()}
    return means | {"step_losses": steps["loss"]}


def _each_run(mesh: Mesh, function: Callable, shared: int) -> Callable:
    """`function` of one run as a function of many; its last `shared` arguments are common to all runs.

    On an accelerator the runs of a device are vmapped: one small network cannot fill it. On CPU they take turns: a
    batched matrix product is slower there than the products one after another.
    """

    def runs_of_a_device(*args: Any) -> Any:
        per_run, common = args[: len(args) - shared], args[len(args) - shared :]
        if jax.tree.leaves(per_run)[0].shape[0] == 1:  # no loop around a single run, see `compile_programs`
            alone = jax.tree.map(lambda leaf: leaf[0], per_run)
            return jax.tree.map(lambda leaf: leaf[None], function(*alone, *common))
        if on_cpu(mesh):
            return lax.map(lambda own: function(*own, *common), per_run)
        return jax.vmap(lambda *own: function(*own, *common))(*per_run)

    def all_runs(*args: Any) -> Any:
        specs = tuple(P("run") if i < len(args) - shared else P() for i in range(len(args)))
        mapped = jax.shard_map(
            runs_of_a_device, mesh=mesh, in_specs=specs, out_specs=P("run"), axis_names={"run"}, check_vma=False
        )
        return mapped(*args)

    return all_runs
