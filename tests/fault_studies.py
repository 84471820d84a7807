"""Two small studies on built-in digits for the fault tests: `python tests/fault_studies.py run dense --workdir …`."""

import os
import sys
from dataclasses import dataclass, replace

from relujax.cli import main
from relujax.data import Data, Flip, UnitRange
from relujax.models.mlp import MLP
from relujax.models.plain import Plain
from relujax.probes import MedianActivation
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.study import Study
from relujax.trial import Trial

RECIPE = Recipe(length=Epochs(30), batch_size=128, optimizer=Sgd(momentum=0.9), schedule=Constant(0.05))
DENSE = Trial(
    model=MLP(depth=2, width=16, num_classes=10, activation="elu"),
    data=Data(name="digits", normalize=UnitRange(), validation=200),
    recipe=RECIPE,
    probes=(MedianActivation(images=100),),
)
CONVOLUTIONAL = Trial(
    model=Plain(5, 10),
    data=Data(name="digits", normalize=UnitRange(), augment=(Flip(),)),
    recipe=replace(RECIPE, length=Epochs(3)),
)


def dense() -> Study:
    """Two rows with two runs each; an epoch is one program."""
    trials = {"ELU": DENSE, "ReLU": replace(DENSE, model=MLP(2, 16, 10, "relu"))}
    return Study(source="dense", question="Does it go on?", trials=trials, metrics=("test_error",), runs=2)


def convolutional() -> Study:
    """One row with two runs; 11 steps an epoch, taken one by one."""
    trials = {"plain": CONVOLUTIONAL}
    return Study(source="convolutional", question="Does it go on?", trials=trials, metrics=("test_error",), runs=2)


@dataclass(frozen=True)
class OutOfLuck(UnitRange):
    """Raises, as a device that has no memory left does, until $LUCK is there."""

    def __call__(self, images):
        if "LUCK" not in os.environ:
            raise FloatingPointError("out of luck")
        return super().__call__(images)


def failing() -> Study:
    """Two rows, of which the first cannot be trained."""
    good = replace(DENSE, recipe=RECIPE.lasting(2))
    trials = {"bad": replace(good, data=Data(name="digits", normalize=OutOfLuck())), "good": good}
    return Study(source="failing", question="Do the others go on?", trials=trials, metrics=("test_error",), runs=1)


STUDIES = {"dense": dense, "convolutional": convolutional, "failing": failing}

if __name__ == "__main__":
    sys.exit(main(STUDIES))
