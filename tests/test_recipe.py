import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relujax.errors import InputError
from relujax.recipe import Adam, Constant, Epochs, Recipe, Sgd, StepDecay, losses, make_optimizer, mistakes


def recipe(**changes):
    plain = {"length": Epochs(2), "batch_size": 4, "optimizer": Sgd(), "schedule": Constant(0.1)}
    return Recipe(**(plain | changes))


def steps(optimizer, gradients, start=1.0):
    """The parameter after each of `gradients`."""
    params = jnp.array(start)
    state, path = optimizer.init(params), []
    for gradient in gradients:
        changes, state = optimizer.update(jnp.array(gradient), state, params)
        params = params + changes
        path.append(float(params))
    return path


def test_plain_sgd_follows_the_gradient():
    np.testing.assert_allclose(steps(make_optimizer(recipe(), 10), [1.0, 2.0]), [0.9, 0.7], rtol=1e-6)


def test_weight_decay_is_added_to_the_gradient_before_momentum():
    optimizer = make_optimizer(recipe(optimizer=Sgd(momentum=0.9), weight_decay=0.5), 10)
    w, v, expected = 1.0, 0.0, []
    for gradient in (1.0, 2.0, -1.0):
        v = 0.9 * v + gradient + 0.5 * w
        w -= 0.1 * v
        expected.append(w)
    np.testing.assert_allclose(steps(optimizer, [1.0, 2.0, -1.0]), expected, rtol=1e-5)


def test_nesterov_is_torchs_form():
    optimizer = make_optimizer(recipe(optimizer=Sgd(momentum=0.9, nesterov=True)), 10)
    w, v, expected = 1.0, 0.0, []
    for gradient in (1.0, 2.0, -1.0):
        v = 0.9 * v + gradient
        w -= 0.1 * (gradient + 0.9 * v)
        expected.append(w)
    np.testing.assert_allclose(steps(optimizer, [1.0, 2.0, -1.0]), expected, rtol=1e-5)


def test_first_adam_step_has_the_size_of_the_learning_rate():
    np.testing.assert_allclose(steps(make_optimizer(recipe(optimizer=Adam()), 10), [123.0]), [0.9], rtol=1e-5)


def test_adam_is_that_of_kingma_and_ba():
    optimizer = make_optimizer(recipe(optimizer=Adam(b1=0.8, b2=0.9, eps=0.1)), 10)
    w, m, v, expected = 1.0, 0.0, 0.0, []
    for step, gradient in enumerate((1.0, 2.0, -1.0), start=1):
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        w -= 0.1 * (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)) ** 0.5 + 0.1)
        expected.append(w)
    np.testing.assert_allclose(steps(optimizer, [1.0, 2.0, -1.0]), expected, rtol=1e-5)


def test_only_kernels_of_convolutions_decay_where_that_is_asked():
    optimizer = make_optimizer(recipe(weight_decay=0.5, decayed="convolutions"), 10)
    params = {"conv": jnp.ones((3, 3, 1, 1)), "dense": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    changes, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(changes["conv"], -0.1 * 0.5, rtol=1e-6)
    assert not changes["dense"].any() and not changes["bias"].any()


def test_step_decay_changes_at_the_first_step_of_its_epochs():
    decay = StepDecay(learning_rates=(1.0, 0.1, 0.01), starts=(0, 1, 3))
    path = steps(make_optimizer(recipe(schedule=decay), 2), [1.0] * 7, start=0.0)
    np.testing.assert_allclose(-np.diff([0.0, *path]), [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01], rtol=1e-5)


def test_a_shortened_recipe_moves_the_steps_of_its_schedule():
    decay = StepDecay(learning_rates=(1.0, 0.1, 0.01), starts=(0, 200, 300))
    short = recipe(length=Epochs(400), schedule=decay).lasting(20)
    assert short.length == Epochs(20)
    assert short.schedule == StepDecay(learning_rates=(1.0, 0.1, 0.01), starts=(0, 10, 15))


def test_squared_error_is_half_the_sum_over_pixels():
    images = jnp.zeros((2, 2, 2, 1))
    outputs = jnp.array([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]])
    found = losses(recipe(loss="squared_error"), outputs, images, jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(found, [2.5, 4.5])


def test_cross_entropy_is_in_nats_and_errors_are_counted():
    logits, labels = jnp.zeros((2, 10)).at[0, 3].set(5.0), jnp.array([3, 3])
    expected = [np.log(9 + np.e**5) - 5, np.log(10)]
    np.testing.assert_allclose(losses(recipe(), logits, jnp.zeros((2, 1, 1, 1)), labels), expected, rtol=1e-5)
    np.testing.assert_array_equal(mistakes(recipe(), logits, labels)["error"], [0, 1])


@pytest.mark.parametrize("changes", [{"length": Epochs(0)}, {"length": Epochs(-3)}, {"batch_size": 0}])
def test_a_length_below_one_is_refused_with_its_value(changes):
    with pytest.raises(InputError, match="at least 1; got"):
        recipe(**changes)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"optimizer": "sgd"}, r"optimizer is Sgd or Adam\(...\); got 'sgd'"),
        ({"schedule": 0.1}, "schedule is Constant or StepDecay"),
        ({"length": 3}, "length is Epochs"),
        ({"length": Epochs(1.5)}, "epochs must be a whole number; got 1.5"),  # pyright: ignore[reportArgumentType]
        ({"loss": "mse"}, "unknown loss 'mse'"),
    ],
)
def test_what_is_no_recipe_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        recipe(**changes)


@pytest.mark.parametrize(
    "rates, starts", [((0.1, 0.01), (0,)), ((0.1, 0.01), (5, 10)), ((0.1, 0.01, 0.001), (0, 9, 5))]
)
def test_steps_that_do_not_rise_from_zero_are_refused(rates, starts):
    with pytest.raises(InputError, match="rising from 0"):
        StepDecay(learning_rates=rates, starts=starts)


def test_a_step_of_a_shortened_schedule_is_rounded_to_the_nearest_epoch():
    decay = StepDecay(learning_rates=(1.0, 0.1, 0.01), starts=(0, 81, 122))
    short = recipe(length=Epochs(164), schedule=decay).lasting(20)  # 9.88 and 14.88 epochs
    assert short.schedule.starts == (0, 10, 15)


def test_of_a_thousand_classes_the_five_largest_logits_are_looked_at():
    logits = jnp.zeros((3, 1000)).at[:, 10:16].set(jnp.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0]))
    found = mistakes(recipe(), logits, jnp.array([10, 14, 15]))  # the largest, the fifth, the sixth
    np.testing.assert_array_equal(found["top5_error"], [0, 0, 1])
    np.testing.assert_array_equal(found["error"], [0, 1, 1])
    assert "top5_error" not in mistakes(recipe(), logits[:, :999], jnp.array([10, 14, 15]))
