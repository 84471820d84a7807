"""Training as pure functions: one step, one epoch, one evaluation; several runs at once over the mesh axis "run".

Every random number is a function of (seed, epoch or step, example), so a state is all that a run needs to go on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from threading import Lock
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from relujax.convolution import convolutions_apart
from relujax.data import Transform, as_evaluated, augment, input_shape
from relujax.errors import InputError
from relujax.hosts import gather, place
from relujax.layers import is_convolutional, remat_blocks, watch
from relujax.recipe import losses, make_optimizer, mistakes
from relujax.sharding import on_cpu, on_gpu, over_batch, over_batches, over_runs, split_batch
from relujax.trial import Trial

Metrics = dict[str, Array]
EVALUATION_BATCH = 1000  # images at most; an evaluation that is called batch by batch takes as many as a step
PART, SHORT = 50, 10  # steps at most, and so few that parts of different lengths are better
Pause = Callable[[int], bool]
Calls = Literal["auto", "epoch", "part", "step"]
Together = Literal["auto", "vmap", "mixed", "map"]  # the runs of a device; mixed: convolutions in turn, else at once

# Of convolutional programs on CPU. The library that XLA hands convolutions to by default takes 1.7 to 6 times as long
# for a filter gradient as XLA's own code; and the barriers in `layers.settle` only last if no pass removes them early.
CPU_CONVOLUTIONS = {"xla_cpu_experimental_ynn_fusion_type": "", "xla_disable_hlo_passes": "cse_barrier_expander"}
KERNEL_OF_BITS = "jax_threefry_gpu_kernel_lowering"  # an option of JAX, for the whole process
_one_at_a_time = Lock()


@struct.dataclass
class TrainState:
    """What changes while a run trains; everything else is static or derived from the seed."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    sums: Metrics  # of the metrics of this epoch's steps so far
    diverged_at: Array  # the first step (from 1) whose loss was no number, 0 before


@struct.dataclass
class Split:
    """Images (N, H, W, C) as uint8, or floats where they are normalised beforehand, and labels (N,) as int32."""

    images: Array
    labels: Array

    def __len__(self) -> int:
        return self.images.shape[0]

    def take(self, chosen: Any) -> "Split":
        """The examples with these indices, in the shape of the indices."""
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Streamed:
    """A split too large for a device: uint8 images (N, H, W, C) in a memory map, of which `take` reads a batch.

    `transform` is a fitted normalisation, applied to what was read.
    """

    images: np.ndarray
    labels: np.ndarray
    transform: Transform = np.asarray

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: np.ndarray) -> Split:
        """The examples with these indices, in the shape of the indices."""
        images = self.transform(np.asarray(self.images[chosen.ravel()]))
        images = images.reshape(*chosen.shape, *images.shape[1:])
        return Split(cast(Any, images), cast(Any, self.labels[chosen]))


def keys(seed: Array) -> tuple[Array, Array, Array]:
    """The keys of a run: initial weights, order of the images, and everything drawn within a step."""
    init_key, order_key, step_key = jax.random.split(jax.random.key(seed), 3)
    return init_key, order_key, step_key


def init_state(trial: Trial, optimizer: optax.GradientTransformation, seed: Array, images: Array) -> TrainState:
    """The state before the first step: the same initial weights for the same seed, whatever the activation."""
    init_key, _, _ = keys(seed)
    outputs, variables = trial.model.init_with_output(init_key, as_evaluated(trial.data, images[:1]), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    names = ("loss", *mistakes(trial.recipe, cast(Array, outputs), jnp.zeros(1, jnp.int32)))
    zero = jnp.zeros((), jnp.int32)
    sums = {name: jnp.zeros(()) for name in names}
    return TrainState(zero, params, batch_stats, optimizer.init(params), sums, diverged_at=zero)


@contextmanager
def random_bits_by_a_kernel() -> Iterator[None]:
    """Within, programs for GPUs leave random bits to JAX's own kernel: the same bits, and far less to compile.

    The initial weights of ResNet-110 compile in 3.5 s so, and else in 27 (H200). Not while training, where XLA draws
    the bits of a dropout within the operation that uses them. A program that another thread calls meanwhile is compiled
    anew.
    """
    with _one_at_a_time:
        before = jax.config.values[KERNEL_OF_BITS]
        jax.config.update(KERNEL_OF_BITS, True)
        try:
            yield
        finally:
            jax.config.update(KERNEL_OF_BITS, before)


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
    state = replace(
        state, step=state.step + 1, params=params, batch_stats=updates.get("batch_stats", {}), opt_state=opt_state
    )
    return state, metrics


def train_epoch(
    trial: Trial,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    seed: Array,
    images: Split,
    part: int | None = None,
) -> TrainState:
    """One pass in a new order, as one scan, or the `part` of it, so many steps, that follows `state`.

    The images that do not fill the last batch sit out; which ones differs from epoch to epoch.
    """
    order = epoch_order(trial, len(images), state, seed)
    steps = len(order)

    def step(state: TrainState, chosen: Array) -> tuple[TrainState, None]:
        batch = images.take(split_batch(chosen))
        return next_step(trial, optimizer, steps, state, seed, batch), None

    if part is not None and part < steps:
        order = lax.dynamic_slice_in_dim(order, state.step % steps, part)
    return lax.scan(step, state, order)[0]


def epoch_order(trial: Trial, count: int, state: TrainState, seed: Array) -> Array:
    """Which of `count` images each step of the epoch that `state` is in trains on, (steps, batch_size)."""
    _, order_key, _ = keys(seed)
    batch_size = trial.recipe.batch_size
    steps = count // batch_size
    order = jax.random.permutation(jax.random.fold_in(order_key, state.step // steps), count)
    return order[: steps * batch_size].reshape(steps, batch_size)


def next_step(
    trial: Trial, optimizer: optax.GradientTransformation, steps: int, state: TrainState, seed: Array, batch: Split
) -> TrainState:
    """The step that follows `state` in an epoch of `steps`; what it draws depends on the seed and the step alone."""
    _, _, step_key = keys(seed)
    begins = state.step % steps == 0
    before = state
    state, metrics = train_step(trial, optimizer, state, batch, jax.random.fold_in(step_key, state.step))
    sums = {name: jnp.where(begins, 0, before.sums[name]) + value for name, value in metrics.items()}
    failed = (before.diverged_at == 0) & ~jnp.isfinite(metrics["loss"])
    return replace(state, sums=sums, diverged_at=jnp.where(failed, state.step, before.diverged_at))


def eval_step(trial: Trial, state: TrainState, batch: Split, weights: Array) -> Metrics:
    """Sums over the examples of a batch, each counted with its weight, so that sizes need not divide."""
    images = as_evaluated(trial.data, batch.images)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    outputs = cast(Array, trial.model.apply(variables, images, train=False))
    values = {"loss": losses(trial.recipe, outputs, images, batch.labels)}
    values |= mistakes(trial.recipe, outputs, batch.labels)
    return jax.tree.map(lambda value: jnp.sum(jnp.where(weights > 0, value, 0)), values)


def evaluate(trial: Trial, state: TrainState, images: Split, batch_size: int = EVALUATION_BATCH) -> Metrics:
    """Mean loss and error over all of `images`, each example exactly once; only memory depends on `batch_size`."""
    index, weights = batches_in_order(len(images), batch_size)

    def sums_of_batch(rows: tuple[Array, Array]) -> Metrics:
        chosen, weight = split_batch(rows)
        return eval_step(trial, state, images.take(chosen), weight)

    sums = lax.map(sums_of_batch, (jnp.asarray(index), jnp.asarray(weights)))
    return jax.tree.map(lambda value: jnp.sum(value) / len(images), sums)


def batches_in_order(count: int, size: int, devices: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Index and weight of every example of every batch of `count` images, (batches, size) each.

    The last batch is filled up with copies of image 0 that weigh nothing; an only one to a multiple of `devices`.
    """
    size = min(size, -(-count // devices) * devices)
    index = np.arange(-(-count // size) * size, dtype=np.int32).reshape(-1, size)
    inside = index < count
    return np.where(inside, index, 0), inside.astype(np.float32)


def probe(trial: Trial, state: TrainState, images: Split) -> Metrics:
    """What the trial's probes see in the network's activations on training images."""
    values: Metrics = {}
    for looker in trial.probes:
        seen = as_evaluated(trial.data, images.images[: looker.images])
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        values |= looker(watch(trial.model, variables, seen), state.params)
    return values


@dataclass(frozen=True)
class Programs:
    """A trial compiled for several runs at once; states, seeds and metrics carry a leading run axis."""

    init: Callable[[Array, Split], TrainState]  # seeds, an image or more of those to train on
    # States (donated), seeds, training images, and what is asked, with the steps just taken, whether to return early.
    # Goes on to the end of the epoch, or to where every run has diverged.
    epoch: Callable[[TrainState, Array, Any, Pause], TrainState]
    measure: Callable[[TrainState, Any, Mapping[str, Any]], Metrics]  # states, training images, others by name
    steps_per_call: int  # how many a compiled program takes before the host is back


@dataclass(frozen=True)
class Dispatch:
    """How a trial's steps reach the devices; nothing of it changes what is computed, beyond rounding."""

    per_call: Literal["epoch", "part", "step"]  # how much one call of a compiled program trains
    runs_of_a_device: Together
    compiler_options: dict[str, str] | None = None


def dispatch(
    trial: Trial,
    mesh: Mesh,
    image: tuple[int, ...],
    streamed: bool,
    calls: Calls = "auto",
    together: Together = "auto",
) -> Dispatch:
    """The rule, for images (H, W, C); `calls` and `together` override it.

    On an accelerator the runs of a device are vmapped, as one small network cannot fill it, but for convolutions, which
    XLA would make one of many groups: five runs of ResNet-20 at once on an H200 train 38,100 images/s so (in bf16 102
    thousand), vmapped altogether 27,900 (50), in turn 35,200 (80). On CPU they take turns: a batched matrix product is
    slower there than the products one after another.

    An epoch is one program: 0.89 s against 1.29 s step by step (784 – 8×128 – 10 on MNIST, 2 cores). Of a convolutional
    network on an accelerator it is a part of an epoch, so that whoever takes the machine away is heard within seconds.
    On CPU such networks are trained step by step: there XLA computes the gradient of a convolution that stands in a
    loop by a naive method (ResNet-20, batch 128: 22 s a step against 0.4 s). So are those whose images the host hands
    out batch by batch.
    """
    if calls in ("epoch", "part") and streamed:
        raise InputError(
            f"images of {trial.data.name} do not fit a device, so steps are called one by one; got {calls}"
        )
    cpu, convolutional = on_cpu(mesh), is_convolutional(trial.model, (1, *input_shape(trial.data, image)))
    if calls == "auto":
        calls = "step" if streamed or (cpu and convolutional) else "part" if convolutional else "epoch"
    return Dispatch(
        per_call=calls,
        runs_of_a_device=("map" if cpu else "mixed") if together == "auto" else together,
        compiler_options=CPU_CONVOLUTIONS if cpu and convolutional else None,
    )


def parts_of(steps: int) -> list[int]:
    """How many steps each part of an epoch of so many takes.

    Equal parts need one program, where a number divides the epoch that makes them neither long nor short; else PART and
    what is left need two.
    """
    equal = max(part for part in range(1, min(PART, steps) + 1) if steps % part == 0)
    if equal >= min(SHORT, steps):
        return [equal] * (steps // equal)
    return [PART] * (steps // PART) + [steps % PART]


def compile_programs(
    trial: Trial,
    mesh: Mesh,
    train_shape: tuple[int, ...],
    streamed: bool = False,
    *,
    calls: Calls = "auto",
    together: Together = "auto",
    remat: bool = False,
) -> Programs:
    """The trial's programs for `mesh` and training images (N, H, W, C); each compiles when it is first called.

    Of `streamed` splits, as wherever steps are called one by one, the host hands out batch by batch. `remat` computes
    blocks again for the gradient, see `layers.remat_blocks`: less memory, more time.
    """
    count, *image = train_shape
    steps = count // trial.recipe.batch_size
    optimizer = make_optimizer(trial.recipe, steps)
    how = dispatch(trial, mesh, tuple(image), streamed, calls, together)

    def compiled(function: Callable, shared: int, donated: tuple[int, ...] = ()) -> Callable:
        # Without its sharding XLA is free to leave a result split over the devices of its run.
        return jax.jit(
            _each_run(mesh, function, shared, how.runs_of_a_device),
            donate_argnums=donated,
            out_shardings=over_runs(mesh),
            compiler_options=how.compiler_options,
        )

    def training(function: Callable) -> Callable:
        return remat_blocks()(function) if remat else function

    def init(seed: Array, train: Split) -> TrainState:
        return init_state(trial, optimizer, seed, train.images)

    def measure(state: TrainState, train: Split, others: dict[str, Split]) -> Metrics:
        # On an accelerator twice a step's images have room, as no layer's outputs are kept for a gradient.
        size = EVALUATION_BATCH if on_cpu(mesh) else min(EVALUATION_BATCH, 2 * trial.recipe.batch_size)
        found = {part: evaluate(trial, state, images, size) for part, images in others.items()}
        return _of_epoch(state, steps, found) | probe(trial, state, train)

    initial = compiled(init, shared=1)
    if on_gpu(mesh) and KERNEL_OF_BITS in jax.config.values:
        initial = random_bits_by_a_kernel()(initial)
    order_of = compiled(partial(epoch_order, trial, count), shared=0)
    one_step = compiled(training(partial(next_step, trial, optimizer, steps)), shared=0, donated=(0,))
    sums_of = compiled(partial(eval_step, trial), shared=2)
    watched = compiled(partial(probe, trial), shared=1)

    def epoch_step_by_step(states: TrainState, seeds: Array, train: Split | Streamed, pause: Pause) -> TrainState:
        order, here = gather(order_of(states, seeds)), _on_host(train)
        for step in range(int(gather(states.step)[0]) % steps, steps):
            batch = place(here.take(order[:, step]), over_batches(mesh))
            # It was read while the step before was running; without this, batches would pile up on the device.
            if gather(states.diverged_at).all():
                break
            states = one_step(states, seeds, batch)
            if pause(1):
                break
        return states

    def measure_in_turn(states: TrainState, train: Split | Streamed, others: Mapping[str, Split | Streamed]) -> Metrics:
        metrics = _of_epoch(states, steps, {part: evaluate_in_turn(states, images) for part, images in others.items()})
        seen = [len(train) if looker.images is None else looker.images for looker in trial.probes]
        if seen:
            metrics |= watched(states, _on_host(train).take(np.arange(min(max(seen), len(train)))))
        return metrics

    def evaluate_in_turn(states: TrainState, images: Split | Streamed) -> Metrics:
        here, sums = _on_host(images), []
        rows = batches_in_order(len(images), trial.recipe.batch_size, mesh.shape["data"])
        for chosen, weights in zip(*rows):
            batch = place((here.take(chosen), weights), over_batch(mesh))
            jax.block_until_ready(sums[-1:])
            sums.append(sums_of(states, *batch))
        return jax.tree.map(lambda *values: np.sum(values, axis=0) / len(images), *gather(sums))

    if how.per_call == "step":
        return Programs(initial, epoch_step_by_step, measure_in_turn, steps_per_call=1)
    parts = [steps] if how.per_call == "epoch" else parts_of(steps)
    some = {
        part: compiled(training(partial(train_epoch, trial, optimizer, part=part)), shared=1, donated=(0,))
        for part in parts
    }

    def epoch_part_by_part(states: TrainState, seeds: Array, train: Split, pause: Pause) -> TrainState:
        step, begins = int(gather(states.step)[0]) % steps, list(accumulate(parts, initial=0))
        if step not in begins:  # stopped there by programs that take steps one by one
            return epoch_step_by_step(states, seeds, train, pause)
        for part in parts[begins.index(step) :]:
            states = some[part](states, seeds, train)
            if part < steps and (gather(states.diverged_at).all() or pause(part)):
                break
        return states

    return Programs(initial, epoch_part_by_part, compiled(measure, shared=2), steps_per_call=parts[0])


def _on_host(images: Split | Streamed) -> Split | Streamed:
    return images if isinstance(images, Streamed) else jax.tree.map(np.asarray, images)  # no copy on CPU


def _of_epoch(state: TrainState, steps: int, found: Mapping[str, Metrics]) -> Metrics:
    """An epoch's metrics: means over its steps, and what was found on other splits."""
    means = {f"train_{name}": value / steps for name, value in state.sums.items()}
    return means | {f"{part}_{name}": value for part, values in found.items() for name, value in values.items()}


def _each_run(mesh: Mesh, function: Callable, shared: int, many: Together) -> Callable:
    """`function` of one run as a function of many; its last `shared` arguments are common to all runs."""

    def runs_of_a_device(*args: Any) -> Any:
        per_run, common = args[: len(args) - shared], args[len(args) - shared :]
        if jax.tree.leaves(per_run)[0].shape[0] == 1:  # no loop around a single run, see `dispatch`
            alone = jax.tree.map(lambda leaf: leaf[0], per_run)
            return jax.tree.map(lambda leaf: leaf[None], function(*alone, *common))
        if many == "map":
            return lax.map(lambda own: function(*own, *common), per_run)
        with convolutions_apart() if many == "mixed" else nullcontext():
            return jax.vmap(lambda *own: function(*own, *common))(*per_run)

    def all_runs(*args: Any) -> Any:
        # For debugging: a shard_map over one of two axes has to be compiled.
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return runs_of_a_device(*args)
        specs = tuple(P("run") if i < len(args) - shared else P() for i in range(len(args)))
        mapped = jax.shard_map(
            runs_of_a_device, mesh=mesh, in_specs=specs, out_specs=P("run"), axis_names={"run"}, check_vma=False
        )
        return mapped(*args)

    return all_runs
