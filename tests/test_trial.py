from functools import partial

import jax.numpy as jnp
import pytest

from experiments import elu
from relujax.activations import elu as elu_function
from relujax.activations import leaky_relu
from relujax.cli import studies_of
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


def test_a_function_without_a_registered_name_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"no registered name.*ACTIVATIONS"):
        trial_id(trial(lambda x: x))


def test_differences_name_the_field_and_both_values():
    assert differences(describe(trial(epochs=20)), describe(trial(epochs=300))) == ["recipe.length.count: 300, now 20"]


@pytest.mark.parametrize("study", studies_of(elu).values())
def test_two_calls_of_a_study_function_return_equal_objects(study):
    assert study() == study()


def test_a_curve_has_one_value_per_epoch_and_nan_where_there_is_none():
    run = RunResult(trial_id="t", seed=0, status="done", history=({"loss": 1.0}, {"loss": 2.0, "test_loss": 3.0}))
    assert list(run.curve("loss")) == [1.0, 2.0]
    assert jnp.isnan(run.curve("test_loss")[0]) and run.last("test_loss") == 3.0
