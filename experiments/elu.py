"""Clevert, Unterthiner & Hochreiter 2016, "Fast and accurate deep network learning by exponential linear units (ELUs)",
arXiv:1511.07289: one function per table or figure.

    python -m experiments run elu.fig_2_median_activation --data-dir DIR
"""

from functools import partial

from relujax.activations import elu, leaky_relu, relu, shifted_relu
from relujax.claims import Beats, FallsFastest, LessVariance, Stated, StaysNearest
from relujax.data import Data, UnitRange
from relujax.models.mlp import MLP, Autoencoder
from relujax.probes import MedianActivation, UnitMedians
from relujax.recipe import Constant, Epochs, Loss, Recipe, Sgd
from relujax.study import Curves, Distribution, Study
from relujax.trial import Trial

leaky_relu_01 = partial(leaky_relu, negative_slope=0.1)  # α = 0.1, section 4.1

# 50,000 / 10,000: not stated; the split of the authors' own framework, which removes no mean.
MNIST = Data(name="mnist", normalize=UnitRange(), validation=10_000)


def _sgd(learning_rate: float, epochs: int, loss: Loss = "cross_entropy") -> Recipe:
    return Recipe(
        length=Epochs(epochs),
        batch_size=64,
        optimizer=Sgd(),  # no momentum is mentioned
        schedule=Constant(learning_rate),
        loss=loss,
    )


def fig_2_median_activation() -> Study:
    """Fig. 2: median over units of the mean activation, and the cross-entropy, of dense nets of 8 × 128 on MNIST.

    About half an hour on 2 CPU cores.
    """
    activations = {"ReLU": relu, "LReLU": leaky_relu_01, "ELU": elu}
    others = ("ReLU", "LReLU")
    return Study(
        source="ELU, Fig. 2",
        question="Do ELUs keep a network's mean activations nearer to zero, and does it learn faster for it?",
        trials={
            name: Trial(
                model=MLP(depth=8, width=128, num_classes=10, activation=activation),
                data=MNIST,
                recipe=_sgd(0.01, epochs=300),
                probes=(MedianActivation(),),
            )
            for name, activation in activations.items()
        },
        metrics=("median_activation", "train_loss", "validation_loss", "validation_error", "test_error"),
        claims=(
            Stated(
                words="ELUs have a smaller median activation throughout the training process.",
                claim=StaysNearest(row="ELU", others=others, metric="median_activation"),
            ),
            Stated(
                words="The training error of ELU networks decreases much more rapidly.",
                # The curves of the figure are flat after epoch 25.
                claim=FallsFastest(row="ELU", others=others, metric="train_loss", epochs=25),
            ),
        ),
        panels=(
            Curves(metrics=("median_activation",), label="median over units of the mean activation"),
            Curves(metrics=("train_loss", "validation_loss"), label="cross-entropy (nats)", log=True),
        ),
        runs=5,
    )


def appendix_c_activation_variance() -> Study:
    """Appendix C: how much each unit's median activation varies over the epochs, dense nets of 5 × 256 on MNIST.

    Deviation: "the variance of these changes" can be read in two ways; both the variance over epochs of each unit's
    median and that of its epoch-to-epoch change are judged.
    Deviation: the paper trains each network once; five runs each, so that the claim can be tested.
    """
    return Study(
        source="ELU, appendix C",
        question="Do the units' median activations vary less in ELU than in ReLU networks while they learn?",
        trials={
            name: Trial(
                model=MLP(depth=5, width=256, num_classes=10, activation=activation),
                data=MNIST,
                recipe=_sgd(0.01, epochs=200),
                probes=(UnitMedians(),),
            )
            for name, activation in {"ReLU": relu, "ELU": elu}.items()
        },
        metrics=("train_loss", "validation_loss", "validation_error", "test_error"),
        claims=tuple(
            Stated(
                words=f"The median varies much more in ReLU networks ({reading}).",
                claim=LessVariance(row="ELU", others=("ReLU",), probe="unit_medians", of=of),
            )
            for of, reading in (("value", "its value over the epochs"), ("change", "its change between epochs"))
        ),
        panels=(
            Distribution(probe="unit_medians", of="value", label="variance over epochs of a unit's median"),
            Distribution(probe="unit_medians", of="change", label="variance over epochs of its change"),
        ),
        runs=5,
    )


def fig_3_autoencoder() -> Study:
    """Fig. 3: reconstruction error of a deep autoencoder on MNIST at four fixed learning rates.

    Deviation: the loss is not stated; ½ Σ over pixels of the squared error, mean over images, as in the authors' own
    framework.
    Deviation: the number of runs is not stated; 5.
    """
    activations = {"ReLU": relu, "LReLU": leaky_relu_01, "ELU": elu, "SReLU": shifted_relu}
    rates = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4, "1e-5": 1e-5}
    return Study(
        source="ELU, Fig. 3",
        question="Do ELUs reconstruct digits better than ReLU, LReLU and shifted ReLU at every learning rate?",
        trials={
            f"{name}, lr {rate}": Trial(
                model=Autoencoder(activation=activation),
                data=Data(name="mnist", normalize=UnitRange()),
                recipe=_sgd(learning_rate, epochs=500, loss="squared_error"),
            )
            for rate, learning_rate in rates.items()
            for name, activation in activations.items()
        },
        metrics=("train_loss", "test_loss"),
        claims=tuple(
            Stated(
                words=f"ELUs outperform the others in {part} reconstruction error at learning rate {rate}.",
                claim=Beats(
                    row=f"ELU, lr {rate}",
                    others=tuple(f"{name}, lr {rate}" for name in activations if name != "ELU"),
                    metric=f"{part}_loss",
                ),
            )
            for rate in rates
            for part in ("train", "test")
        ),
        panels=(
            Curves(metrics=("train_loss",), label="train reconstruction error (½ Σ squared)", log=True),
            Curves(metrics=("test_loss",), label="test reconstruction error (½ Σ squared)", log=True),
        ),
        runs=5,
    )
