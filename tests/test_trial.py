import dataclasses
from functools import partial
from types import FunctionType

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments import elu
from relujax.activations import ACTIVATIONS, PReLU, leaky_relu, smooth
from relujax.activations import elu as elu_function
from relujax.catalog import studies_of
from relujax.data import Data, UnitRange
from relujax.errors import InputError
from relujax.models.mlp import MLP
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.trial import RunResult, Trial, describe, differences, trial_id


def trial(activation="elu", epochs=2, **changes):
    model = MLP(depth=2, width=8, num_classes=10, activation=activation, **changes)
    recipe = Recipe(length=Epochs(epochs), batch_size=64, optimizer=Sgd(), schedule=Constant(0.01))
    return Trial(model=model, data=Data(name="digits", normalize=UnitRange()), recipe=recipe)


def test_equal_trials_are_the_same_run_however_the_activation_is_given():
    assert trial_id(trial("elu")) == trial_id(trial(elu_function))
    assert trial_id(trial(partial(leaky_relu, negative_slope=0.1))) == trial_id(
        trial(partial(leaky_relu, negative_slope=0.1))
    )


def test_any_changed_setting_is_another_run():
    leaky = partial(leaky_relu, negative_slope=0.1)
    trials = [trial(), trial("relu"), trial(epochs=3), trial(dtype=jnp.bfloat16), trial(leaky)]
    assert len({trial_id(each) for each in trials}) == len(trials)


def times(a):
    return lambda x: a * x


def test_another_formula_under_the_same_name_is_another_run(monkeypatch):
    def own(formula):
        monkeypatch.setitem(ACTIVATIONS, "own", formula)
        return trial_id(trial("own"))

    capped = own(lambda x: jnp.minimum(x, 1))
    constant = own(lambda x: 0 * x)
    assert len({capped, constant, own(jnp.tanh), own(jnp.sin)}) == 4
    assert own(partial(leaky_relu, negative_slope=0.1)) != own(partial(leaky_relu, negative_slope=0.2))
    assert own(jnp.tanh) == own(jnp.tanh)
    assert len({own(lambda x: x + 1), own(lambda x: x + 2), own(lambda x, a=1: x + a), own(lambda x, a=2: x + a)}) == 4
    assert len({own(times(1)), own(times(2)), own(times(jnp.float32(2))), own(times(jnp.float32(3)))}) == 4
    table = np.arange(5.0)
    assert own(times(table)) == own(times(table.copy())) != own(times(table + 1)) and own(times([1])) != own(times([2]))
    assert own(smooth(lambda x: x + 1)) != own(smooth(lambda x: x + 2))
    shipped = trial_id(trial("relu"))
    monkeypatch.setitem(ACTIVATIONS, "relu", jnp.tanh)
    assert trial_id(trial("relu")) != shipped


def test_a_formula_is_the_same_run_where_its_file_cannot_be_read(monkeypatch):
    def formula(x):
        return jnp.where(x in {"a", "b"}, x, [each * 2 for each in (x, 0.5)][1])

    monkeypatch.setitem(ACTIVATIONS, "own", formula)
    here = trial_id(trial("own"))
    elsewhere = FunctionType(formula.__code__.replace(co_filename="gone.py", co_firstlineno=77), globals(), "formula")
    monkeypatch.setitem(ACTIVATIONS, "own", elsewhere)
    assert trial_id(trial("own")) == here


def test_another_network_of_the_same_name_is_another_run():
    class Own(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(self.num_classes)(x.reshape(len(x), -1))

    first, own = Own(10), Own

    class Own(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(self.num_classes, use_bias=False)(x.reshape(len(x), -1))

    ids = [trial_id(dataclasses.replace(trial(), model=model)) for model in (first, Own(10), own(10))]
    assert ids[0] == ids[2] != ids[1]

    class Heir(own):
        pass

    heir = trial_id(dataclasses.replace(trial(), model=Heir(10)))

    class Heir(Own):
        pass

    assert trial_id(dataclasses.replace(trial(), model=Heir(10))) != heir


@pytest.mark.parametrize(
    "activation, words", [(partial(leaky_relu, 0.2), "by name"), (PReLU, r"give an instance, PReLU\(\)")]
)
def test_what_would_hide_a_difference_is_refused(activation, words, monkeypatch):
    monkeypatch.delitem(ACTIVATIONS, "prelu")
    with pytest.raises(InputError, match=words):
        trial_id(trial(activation))


def test_a_function_without_a_registered_name_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"no registered name.*ACTIVATIONS"):
        trial_id(trial(lambda x: x))


def test_differences_name_the_field_and_both_values():
    assert differences(describe(trial(epochs=20)), describe(trial(epochs=300))) == ["recipe.length.count: 300, now 20"]
    assert differences({"first": describe(trial())}, {}) == ["first: null, now Trial"]


@pytest.mark.parametrize("study", studies_of(elu).values())
def test_two_calls_of_a_study_function_return_equal_objects(study):
    assert study() == study()


def test_a_curve_has_one_value_per_epoch_and_nan_where_there_is_none():
    run = RunResult(trial_id="t", seed=0, status="done", history=({"loss": 1.0}, {"loss": 2.0, "test_loss": 3.0}))
    assert list(run.curve("loss")) == [1.0, 2.0]
    assert jnp.isnan(run.curve("test_loss")[0]) and run.last("test_loss") == 3.0
