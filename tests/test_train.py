import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from relujax import datasets, sharding, train
from relujax.data import Data, Flip, UnitRange
from relujax.errors import InputError
from relujax.initializers import he_normal
from relujax.layers import Activation, batch_norm, conv, global_average_pool
from relujax.models.mlp import MLP
from relujax.models.resnet import ResNet
from relujax.probes import MedianActivation
from relujax.recipe import Constant, Epochs, Recipe, Sgd, make_optimizer
from relujax.sharding import batches_of_runs, make_mesh, over_runs
from relujax.train import (
    Split,
    compile_programs,
    dispatch,
    epoch_order,
    evaluate,
    init_state,
    keys,
    next_step,
    parts_of,
    train_epoch,
)
from relujax.trial import Trial

RECIPE = Recipe(length=Epochs(2), batch_size=64, optimizer=Sgd(), schedule=Constant(0.05))
TRIAL = Trial(
    model=MLP(depth=2, width=16, num_classes=10, activation="elu"),
    data=Data(name="digits", normalize=UnitRange()),
    recipe=RECIPE,
    probes=(MedianActivation(images=100),),
)
OPTIMIZER = make_optimizer(RECIPE, 22)


@pytest.fixture(scope="module")
def digits():
    dataset = datasets.load("digits")
    return Split(jnp.array(dataset.train_images), jnp.array(dataset.train_labels))


def trained(digits, devices, seeds, epochs=2):
    mesh = make_mesh(len(seeds), devices)
    programs = compile_programs(TRIAL, mesh, digits.images.shape)
    seeds = jnp.array(seeds)
    states = programs.init(seeds, digits)
    for _ in range(epochs):
        states = programs.epoch(states, seeds, digits, never)
    return jax.device_get((states, programs.measure(states, digits, {})))


def never(steps=1):
    """Whether to return before the end of the epoch."""
    return False


def noted_programs(*args, **named):
    """The programs, and all that was handed to jax.jit for them."""
    jit, compiled = jax.jit, []

    def noting(*args, **options):
        compiled.append(jit(*args, **options))
        return compiled[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "jit", noting)
        return compile_programs(*args, **named), compiled


def assert_close(ours, theirs, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), ours, theirs)


@pytest.mark.parametrize("calls", ["step", "epoch"])
def test_on_gpus_only_initial_weights_leave_random_bits_to_a_kernel(digits, calls, monkeypatch):
    monkeypatch.setattr(train, "on_gpu", lambda mesh: True)

    def by_a_kernel():
        """Whether a program for GPUs that is lowered now has that kernel."""
        drawn = jax.jit(lambda seed: jax.random.normal(jax.random.key(seed), (3,)))
        return "cu_threefry2x32" in drawn.trace(0).lower(lowering_platforms=("cuda",)).as_text()

    initial, trained = [], []

    class Seen(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            (trained if train else initial).append(by_a_kernel())
            return nn.Dense(10)(global_average_pool(images))

    mesh = make_mesh(1, 1)
    programs = compile_programs(replace(TRIAL, model=Seen(), probes=()), mesh, digits.images.shape, calls=calls)
    assert not any(initial)  # the network was looked at before
    states = programs.init(jnp.array([0]), digits)
    assert initial[-1] and not by_a_kernel()
    programs.epoch(states, jnp.array([0]), digits, lambda steps: True)
    assert trained and not any(trained)


class Noted(nn.Module):
    """Keeps what a training step hands to a network, beside a BatchNorm."""

    @nn.compact
    def __call__(self, images, *, train):
        x = batch_norm(images, train, name="bn")
        seen = self.variable("batch_stats", "images", jnp.zeros, (8, 8, 8, 1))
        drawn = self.variable("batch_stats", "drawn", jnp.zeros, (4,))
        if train:
            seen.value, drawn.value = images, jax.random.uniform(self.make_rng("dropout"), (4,))
        return nn.Dense(10)(global_average_pool(x))


def test_a_step_hands_the_network_its_images_its_own_draws_and_keeps_its_statistics():
    data = Data(name="digits", normalize=UnitRange(), augment=(Flip(),))
    trial = Trial(model=Noted(), data=data, recipe=replace(RECIPE, batch_size=8))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    batch = Split(jnp.asarray(pixels), jnp.zeros(8, jnp.int32))

    @jax.jit
    def after(step, seed):
        state = replace(init_state(trial, OPTIMIZER, seed, batch.images), step=step)
        return next_step(trial, OPTIMIZER, 10, state, seed, batch).batch_stats

    stats = after(3, 5)
    upright, mirrored = pixels / np.float32(255), pixels[:, :, ::-1] / np.float32(255)
    seen = np.asarray(stats["images"])
    flipped = [np.allclose(one, other) for one, other in zip(seen, mirrored)]
    assert 0 < sum(flipped) < 8  # each example draws for itself
    chosen = np.where(np.array(flipped)[:, None, None, None], mirrored, upright)
    np.testing.assert_allclose(seen, chosen, rtol=1e-6)
    np.testing.assert_allclose(stats["bn"]["mean"], 0.1 * seen.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(stats["bn"]["var"], 0.9 + 0.1 * seen.var((0, 1, 2)), rtol=1e-5)
    draws = [np.asarray(after(*given)["drawn"]) for given in ((3, 5), (4, 5), (3, 6), (3, 5))]
    assert len({draw.tobytes() for draw in draws}) == 3 and (draws[0] == draws[3]).all()


def test_an_epoch_in_one_scan_equals_a_loop_in_numpy(digits):
    """Float64 mathematics of the same net, weights, batches and steps, written out by hand."""
    seed = jnp.array(7)
    state = init_state(TRIAL, OPTIMIZER, seed, digits.images)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params)
    order = jax.random.permutation(jax.random.fold_in(keys(seed)[1], 0), len(digits))
    images, labels = np.asarray(digits.images), np.asarray(digits.labels)
    loss_sum = 0.0
    for start in range(0, 22 * 64, 64):
        chosen = np.asarray(order[start : start + 64])
        x, target = images[chosen].reshape(64, -1) / 255, np.eye(10)[labels[chosen]]
        layers = [x]
        for name in ("dense1", "dense2"):
            z = layers[-1] @ params[name]["kernel"] + params[name]["bias"]
            layers.append(np.where(z > 0, z, np.expm1(np.minimum(z, 0))))
        z = layers[-1] @ params["head"]["kernel"] + params["head"]["bias"]
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss_sum += -np.mean(np.log(p[target == 1]))
        back = (p - target) / 64
        gradients = {}
        for name, above in (("head", layers[2]), ("dense2", layers[1]), ("dense1", layers[0])):
            gradients[name] = {"kernel": above.T @ back, "bias": back.sum(0)}
            back = back @ params[name]["kernel"].T
            back = back * np.where(above > 0, 1, above + 1)  # ELU's derivative from its output
        params = jax.tree.map(lambda w, g: w - 0.05 * g, params, gradients)
    after = jax.jit(lambda state, seed: train_epoch(TRIAL, OPTIMIZER, state, seed, digits))(state, seed)
    assert int(after.step) == 22
    np.testing.assert_allclose(after.sums["loss"], loss_sum, rtol=1e-5)
    assert_close(after.params, params, 1e-5)


def test_evaluation_counts_each_example_once_when_sizes_do_not_divide(digits):
    state = init_state(TRIAL, OPTIMIZER, jnp.array(0), digits.images)
    found = evaluate(TRIAL, state, digits)  # 1,437 images in batches of 1,000
    logits = TRIAL.model.apply({"params": state.params}, digits.images / 255, train=False)
    wrong = np.argmax(logits, -1) != np.asarray(digits.labels)
    np.testing.assert_allclose(found["error"], wrong.mean(), rtol=1e-6)
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    np.testing.assert_allclose(found["loss"], -log_p[np.arange(len(wrong)), digits.labels].mean(), rtol=1e-5)


def test_each_epoch_is_a_permutation_and_no_two_are_the_same(digits):
    state = init_state(TRIAL, OPTIMIZER, jnp.int32(0), digits.images)

    def order(count, step, seed=0):
        return np.asarray(epoch_order(TRIAL, count, replace(state, step=jnp.int32(step)), jnp.int32(seed)))

    first = order(1408, 0)  # 22 batches of 64, nothing left over
    assert first.shape == (22, 64) and sorted(first.ravel()) == list(range(1408))
    assert (order(1408, 21) == first).all()  # the same all through an epoch
    assert (order(1408, 22) != first).any() and (order(1408, 0, seed=1) != first).any()
    left_out = [set(range(1437)) - set(order(1437, step).ravel()) for step in (0, 22)]
    assert [len(images) for images in left_out] == [29, 29] and left_out[0] != left_out[1]


def test_one_and_two_devices_give_the_same_parameters(digits):
    assert_close(trained(digits, 1, (0, 1)), trained(digits, 2, (0, 1)), 1e-5)


def test_a_run_does_not_depend_on_its_neighbours(digits):
    together, _ = trained(digits, 2, (4, 5))
    alone, _ = trained(digits, 1, (5,))
    assert_close(jax.tree.map(lambda leaf: leaf[1:], together), alone, 1e-5)


def test_the_same_seed_gives_identical_runs_and_five_seeds_differ(digits):
    first, _ = trained(digits, 1, (0, 1, 2, 3, 4), epochs=1)
    again, _ = trained(digits, 1, (0, 1, 2, 3, 4), epochs=1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    heads = {leaf.tobytes() for leaf in first.params["head"]["kernel"]}
    assert len(heads) == 5


def test_an_epoch_in_parts_is_that_in_one_program_and_ends_after_any_part(digits, monkeypatch):
    monkeypatch.setattr(train, "PART", 12)  # of 22 steps
    mesh, asked = make_mesh(2, 1), []
    seeds = jax.device_put(np.arange(2, dtype=np.int32), over_runs(mesh))

    def programs(calls):
        return compile_programs(TRIAL, mesh, digits.images.shape, calls=calls)

    def asking(steps=1):
        asked.append(steps)
        return len(asked) == 1

    parts, whole, steps = (programs(calls) for calls in ("part", "epoch", "step"))
    assert (parts.steps_per_call, whole.steps_per_call) == (11, 22)
    begun = jax.device_get(whole.init(seeds, digits))
    expected = jax.device_get(whole.epoch(whole.init(seeds, digits), seeds, digits, never))
    half = parts.epoch(whole.init(seeds, digits), seeds, digits, asking)
    assert half.step.tolist() == [11, 11] and asked == [11]
    ended = jax.device_get(parts.epoch(half, seeds, digits, asking))
    assert asked == [11, 11]
    jax.tree.map(np.testing.assert_array_equal, ended, expected)
    # From within a part: begun step by step elsewhere.
    asked.clear()
    one = steps.epoch(jax.device_put(begun, over_runs(mesh)), seeds, digits, asking)
    assert one.step.tolist() == [1, 1]
    assert_close(jax.device_get(parts.epoch(one, seeds, digits, never)), expected, 1e-5)


@pytest.mark.parametrize(
    "steps, parts",
    [
        (390, [39] * 10),
        (781, [11] * 71),
        (22, [22]),
        (50, [50]),
        (3, [3]),
        (389, [50] * 7 + [39]),  # a prime number
        (122, [50, 50, 22]),  # twice 61
    ],
)
def test_parts_are_equal_where_a_number_divides_the_epoch_that_makes_them_neither_long_nor_short(steps, parts):
    assert parts_of(steps) == parts


def test_parts_of_different_lengths_make_the_epoch_that_one_scan_makes(digits):
    few, asked = digits.take(np.arange(53 * 3)), []
    trial = replace(TRIAL, recipe=replace(RECIPE, batch_size=3), probes=())
    programs = [compile_programs(trial, make_mesh(2, 1), few.images.shape, calls=calls) for calls in ("part", "epoch")]
    ended = []
    for own in programs:
        states = own.init(jnp.array([0, 1]), few)
        for _ in range(2):
            states = own.epoch(states, jnp.array([0, 1]), few, lambda steps: asked.append(steps))
        ended.append(jax.device_get(states))
    assert asked == [50, 3, 50, 3]
    jax.tree.map(np.testing.assert_array_equal, *ended)


def test_on_an_accelerator_convolutional_networks_train_in_parts_and_dense_ones_by_the_epoch(monkeypatch):
    monkeypatch.setattr(train, "on_cpu", lambda mesh: False)
    for trial, per_call in ((TRIAL, "epoch"), (CONVOLUTIONAL, "part")):
        how = dispatch(trial, make_mesh(1, 1), (28, 28, 1), False)
        assert (how.per_call, how.runs_of_a_device, how.compiler_options) == (per_call, "mixed", None)


def test_the_epoch_is_compiled_once(digits):
    programs, compiled = noted_programs(TRIAL, make_mesh(2, 2), digits.images.shape)
    seeds = jax.device_put(np.arange(2), over_runs(make_mesh(2, 2)))
    states = programs.init(seeds, digits)
    for _ in range(3):
        states = programs.epoch(states, seeds, digits, never)
        programs.measure(states, digits, {})
    assert sorted(program._cache_size() for program in compiled)[-4:] == [0, 1, 1, 1]  # and none step by step


def test_the_probe_sees_the_network_after_the_epoch(digits):
    states, metrics = trained(digits, 1, (3,), epochs=1)
    params = jax.tree.map(lambda leaf: leaf[0].astype(np.float64), states.params)
    x = np.asarray(digits.images[:100]).reshape(100, -1) / 255
    means = []
    for name in ("dense1", "dense2"):
        z = x @ params[name]["kernel"] + params[name]["bias"]
        x = np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
        means.append(x.mean(0))
    np.testing.assert_allclose(metrics["median_activation"][0], np.median(np.concatenate(means)), rtol=1e-4)


@pytest.mark.parametrize(
    "seeds, devices, groups",
    [(5, 2, [(0, 1), (2, 3), (4,)]), (1, 2, [(0,)]), (4, 2, [(0, 1), (2, 3)]), (2, 1, [(0,), (1,)])],
)
def test_runs_are_grouped_without_an_idle_place(seeds, devices, groups):
    assert batches_of_runs(range(seeds), make_mesh(seeds, devices)) == groups


CONVOLUTIONAL = Trial(
    model=ResNet(8, 10),
    data=Data(name="digits", normalize=UnitRange(), augment=(Flip(),)),
    recipe=Recipe(length=Epochs(1), batch_size=64, optimizer=Sgd(momentum=0.9), schedule=Constant(0.05)),
    probes=(MedianActivation(images=100),),
)
PARTS = {"train": slice(200), "test": slice(200, 290)}


@functools.cache
def convolutional_programs(seeds, devices, in_one_scan, together="auto"):
    """The programs for 200 images of 8×8 pixels, and all that was handed to jax.jit for them."""
    how = {"calls": "epoch" if in_one_scan else "auto", "together": together}
    return noted_programs(CONVOLUTIONAL, make_mesh(seeds, devices), (200, 8, 8, 1), **how)


@pytest.fixture(scope="module")
def crops(digits):
    images = digits.images[:, 10:18, 10:18]
    return {name: Split(images[part], digits.labels[part]) for name, part in PARTS.items()}


def convolved(crops, seeds, devices, in_one_scan=False, together="auto"):
    """States and metrics after an epoch of three steps."""
    programs, _ = convolutional_programs(len(seeds), devices, in_one_scan, together)
    seeds = jax.device_put(np.array(seeds, np.int32), over_runs(make_mesh(len(seeds), devices)))
    states = programs.init(seeds, crops["train"])
    states = programs.epoch(states, seeds, crops["train"], never)
    return jax.device_get((states, programs.measure(states, crops["train"], {"test": crops["test"]})))


def test_convolutions_step_by_step_equal_those_in_one_scan(crops):
    in_turn = convolved(crops, (4,), devices=1)
    states, metrics = in_turn
    assert states.step.tolist() == [3] and metrics.keys() >= {"train_loss", "test_loss", "test_error"}
    assert_close(in_turn, convolved(crops, (4,), devices=1, in_one_scan=True), 2e-4)


class Block(nn.Module):
    """All that a block may have: parameters, BatchNorm statistics, randomness, a learnt activation."""

    @nn.compact
    def __call__(self, x, *, train):
        for layer in range(2):
            x = conv(x, 8, kernel_init=he_normal, name=f"conv{layer}")
            x = batch_norm(x, train, name=f"bn{layer}")
            x = Activation("prelu", name=f"act{layer}")(x, train=train)
            x = nn.Dropout(0.2, deterministic=not train)(x)
        return x


class Blocks(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        for block in range(3):
            images = Block(name=f"block{block}")(images, train=train)
        return nn.Dense(10)(global_average_pool(images))


def test_blocks_computed_again_give_the_same_numbers_from_less_memory(crops):
    seeds = jax.device_put(np.array([4], np.int32), over_runs(make_mesh(1, 1)))
    trial, batch = replace(CONVOLUTIONAL, model=Blocks()), crops["train"].take(np.arange(64)[None])
    states, after, needed = None, [], []
    for remat in (False, True):
        programs, (_, _, step, *_) = noted_programs(trial, make_mesh(1, 1), (200, 8, 8, 1), remat=remat)
        states = states or jax.device_get(programs.init(seeds, crops["train"]))
        step = step.lower(states, seeds, batch).compile()
        after.append(jax.device_get(step(states, seeds, batch)))
        needed.append(step.memory_analysis().temp_size_in_bytes)
    assert_close(*after, 1e-5)
    assert not np.allclose(after[0].params["block0"]["conv0"]["kernel"], states.params["block0"]["conv0"]["kernel"])
    assert needed[1] < 0.7 * needed[0]


def test_convolutions_on_two_devices_equal_each_run_alone(crops):
    both = convolved(crops, (4, 5), devices=2)
    for place, seed in enumerate((4, 5)):
        own = jax.tree.map(lambda leaf, at=place: leaf[at : at + 1], both)
        assert_close(own, convolved(crops, (seed,), devices=1), 2e-4)
    heads = both[0].params["head"]["kernel"]
    assert not np.allclose(heads[0], heads[1], atol=1e-2)


@pytest.mark.slow
def test_however_the_runs_of_a_device_share_it_the_numbers_are_the_same(crops):
    in_turn, at_once = (convolved(crops, (4, 5), devices=1, together=how) for how in ("map", "mixed"))
    assert_close(at_once, in_turn, 2e-4)


def test_the_step_of_a_convolutional_network_is_compiled_once(crops):
    programs, compiled = convolutional_programs(1, 1, False)
    seeds = jax.device_put(np.arange(1, dtype=np.int32), over_runs(make_mesh(1, 1)))
    states = programs.init(seeds, crops["train"])
    for _ in range(3):
        states = programs.epoch(states, seeds, crops["train"], never)
        programs.measure(states, crops["train"], {"test": crops["test"]})
    assert [program._cache_size() for program in compiled] == [1] * len(compiled) and len(compiled) >= 4


@pytest.mark.parametrize(
    "trial, calls, expected",
    [(TRIAL, "auto", ("epoch", None)), (TRIAL, "step", ("step", None)), (CONVOLUTIONAL, "auto", ("step", "options"))],
)
def test_how_steps_are_called_follows_from_network_and_device(trial, calls, expected):
    how = dispatch(trial, make_mesh(1, 1), (28, 28, 1), False, calls)
    assert (how.per_call, how.compiler_options and "options") == expected and how.runs_of_a_device == "map"
    assert dispatch(trial, make_mesh(1, 1), (28, 28, 1), False, calls, "vmap").runs_of_a_device == "vmap"


def test_what_no_device_holds_cannot_be_an_epoch_per_call():
    with pytest.raises(InputError, match="steps are called one by one"):
        dispatch(TRIAL, make_mesh(1, 1), (28, 28, 1), True, "epoch")


def test_training_metrics_are_means_over_the_steps_of_an_epoch(digits):
    states, metrics = trained(digits, 1, (3,))
    for name in ("loss", "error"):
        np.testing.assert_allclose(metrics[f"train_{name}"], states.sums[name] / 22, rtol=1e-6)


def test_what_a_step_draws_is_another_in_every_epoch():
    trial = Trial(model=Noted(), data=TRIAL.data, recipe=replace(RECIPE, batch_size=8))
    batch = Split(jnp.zeros((8, 8, 8, 1), jnp.uint8), jnp.zeros(8, jnp.int32))

    @jax.jit
    def drawn(step):
        state = replace(init_state(trial, OPTIMIZER, jnp.int32(5), batch.images), step=step)
        return next_step(trial, OPTIMIZER, 10, state, jnp.int32(5), batch).batch_stats["drawn"]

    assert len({np.asarray(drawn(jnp.int32(step))).tobytes() for step in (3, 13, 23)}) == 3


def test_an_accelerator_takes_as_many_runs_at_once_as_divide_evenly(monkeypatch):
    monkeypatch.setattr(sharding, "on_cpu", lambda mesh: False)
    mesh = make_mesh(2, 2)
    assert sharding.batches_of_runs(range(5), mesh) == [(0, 1, 2, 3), (4,)]
    assert sharding.batches_of_runs(range(4), mesh, alone=True) == [(0, 1), (2, 3)]
