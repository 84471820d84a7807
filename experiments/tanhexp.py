"""Liu & Di 2020, "TanhExp: a smooth activation function with high convergence speed for lightweight neural networks",
arXiv:2003.09855: one function per table or figure.

    python -m experiments run tanhexp.fig_5_mnist_learning_speed --data-dir DIR
"""

from relujax.activations import Function, mish, relu, silu, tanhexp
from relujax.claims import Beats, FallsFastest, Near, Stated
from relujax.data import Data, UnitRange
from relujax.models.deep_dense import DeepDense
from relujax.probes import Representation
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.study import ByDepth, Curves, Images, Reported, Study
from relujax.trial import Trial

COMPARED = {"TanhExp": tanhexp, "Swish": silu, "Mish": mish, "ReLU": relu}
OTHERS = ("Swish", "Mish", "ReLU")
DEPTHS = tuple(range(15, 26))  # "from 15 to 25", section 4.1.2

MNIST = Data(name="mnist", normalize=UnitRange())  # all 60,000 images train: the paper shows the test set, every epoch
ACCURACY = Curves(metrics=("test_accuracy",), label="test accuracy", rows=("TanhExp", *OTHERS))


def _dense(epochs: int) -> Recipe:
    """Section 4.1 follows the Mish implementation: Keras' SGD as it stands there, without momentum."""
    return Recipe(length=Epochs(epochs), batch_size=128, optimizer=Sgd(), schedule=Constant(0.01))


DENSE_10 = _dense(10)


def _mnist(activation: Function, depth: int = 15) -> Trial:
    return Trial(model=DeepDense(depth=depth, num_classes=10, activation=activation), data=MNIST, recipe=DENSE_10)


def _alpha_dropout(activation: Function) -> Trial:
    model = DeepDense(depth=15, num_classes=10, activation=activation, noise="alpha")
    return Trial(model=model, data=MNIST, recipe=DENSE_10, probes=(Representation(),))


def fig_5_mnist_learning_speed() -> Study:
    """Figs. 5 and 6: test accuracy and loss over ten epochs of the 15-layer net on MNIST.

    The paper shows one run of each. After the first epoch it reads 0.8986 (TanhExp), 0.6568 (Mish) and 0.4030 (Swish);
    the notebook that it follows reads 0.8594 for the same net with Mish. One run says nothing here.

    Deviation: learning rate, optimiser and batch size are not stated; those of the Mish notebook, which the paper
    follows: SGD without momentum at 0.01, batches of 128.
    Deviation: the last, incomplete batch of each epoch is dropped; Keras trains on it.
    Deviation: the number of runs is not stated; 5, so that the claims can be tested.
    """
    return Study(
        source="TanhExp, Figs. 5 and 6",
        question="Does a 15-layer net on MNIST learn faster, and in the end better, with TanhExp?",
        trials={name: _mnist(activation) for name, activation in COMPARED.items()},
        metrics=("test_accuracy", "test_loss", "train_loss"),
        claims=(
            Stated(
                words="After the first epoch TanhExp (0.8986) is ahead of Mish (0.6568) and Swish (0.4030).",
                claim=FallsFastest(row="TanhExp", others=("Mish", "Swish"), metric="test_error", epochs=1),
            ),
            Stated(
                words="TanhExp outperforms Mish, Swish and ReLU in convergence speed.",
                # The figures show ten epochs.
                claim=FallsFastest(row="TanhExp", others=OTHERS, metric="test_error", epochs=10),
            ),
            Stated(
                words="TanhExp outperforms Mish, Swish and ReLU in final accuracy.",
                claim=Beats(row="TanhExp", others=OTHERS, metric="test_error"),
            ),
            Stated(
                words="TanhExp outperforms Mish, Swish and ReLU in the testing loss.",
                claim=Beats(row="TanhExp", others=OTHERS, metric="test_loss"),
            ),
        ),
        panels=(ACCURACY, Curves(metrics=("test_loss",), label="test cross-entropy (nats)")),
        runs=5,
    )


def fig_7_mnist_depth() -> Study:
    """Fig. 7: test accuracy after ten epochs on MNIST with 15 to 25 layers.

    The Mish and Swish points are not the paper's own runs: "the results of Mish and Swish remained the same as the
    Mish", so the numbers printed beside them here are those of the Mish notebook, one run each. Its nets of 21 layers
    and more guess after the first epoch: what falls is learning in ten epochs, not, as the paper has it, overfitting;
    see the train loss. 44 rows.

    Deviation: optimiser, batches and runs as in fig_5_mnist_learning_speed.
    Deviation: "hardly drops" is read as less than 2 points of accuracy.
    """

    def printed(label: str, accuracies: tuple[float, ...]) -> dict[str, Reported]:
        return {f"{label}, {depth} layers": Reported(mean) for depth, mean in zip(DEPTHS, accuracies, strict=True)}

    return Study(
        source="TanhExp, Fig. 7",
        question="Does the accuracy of a deep dense net on MNIST hold with TanhExp as layers are added?",
        trials={
            f"{name}, {depth} layers": _mnist(activation, depth)
            for name, activation in COMPARED.items()
            for depth in DEPTHS
        },
        metrics=("test_accuracy", "train_loss"),
        claims=(
            Stated(
                words="TanhExp hardly drops its accuracy, with 0.9763 at 25 layers.",
                claim=Near(row="TanhExp, 25 layers", other="TanhExp, 15 layers", metric="test_error", margin=0.02),
            ),
            *(
                Stated(
                    words=f"With more than 21 layers {name} shows a significant decrease in accuracy.",
                    claim=Beats(
                        row=f"{name}, 15 layers",
                        others=tuple(f"{name}, {depth} layers" for depth in DEPTHS if depth > 21),
                        metric="test_error",
                    ),
                )
                for name in ("ReLU", "Swish")
            ),
            Stated(
                words="Other activation functions do not maintain the stability as the number of layers increases.",
                claim=Beats(
                    row="TanhExp, 25 layers",
                    others=tuple(f"{name}, 25 layers" for name in OTHERS),
                    metric="test_error",
                ),
            ),
        ),
        panels=(
            ByDepth(
                metric="test_accuracy",
                label="test accuracy",
                series={name: {depth: f"{name}, {depth} layers" for depth in DEPTHS} for name in COMPARED},
            ),
        ),
        reported={
            "TanhExp, 25 layers": Reported(97.63),  # section 4.1.2
            **printed("Swish", (98.2, 97.91, 97.95, 97.52, 97.2, 96.22, 95.57, 91.74, 73.58, 63.41, 39.68)),
            **printed("Mish", (98.43, 98.28, 98.38, 98.24, 98.05, 97.52, 97.86, 96.46, 94.52, 94.66, 85.16)),
        },
        runs=5,
    )


def fig_8_gaussian_dropout() -> Study:
    """Fig. 8: test accuracy over ten epochs on MNIST with multiplicative Gaussian noise in each layer.

    Equation 8 prints a standard deviation of rate / (1 − rate). The layer is Keras', whose deviation is the root of
    that. The last row, the net of Fig. 5, is not in the figure; it shows what the noise costs.

    Deviation: the standard deviation is √(rate / (1 − rate)) = 0.577, as in Keras, not 0.333 as printed.
    Deviation: optimiser, batches and runs as in fig_5_mnist_learning_speed.
    Deviation: "barely affected" is read as less than 1 point of accuracy.
    """
    return Study(
        source="TanhExp, Fig. 8",
        question="Is TanhExp the one activation that Gaussian noise in every layer hardly harms?",
        trials={
            **{
                name: Trial(
                    model=DeepDense(depth=15, num_classes=10, activation=activation, noise="gaussian"),
                    data=MNIST,
                    recipe=DENSE_10,
                )
                for name, activation in COMPARED.items()
            },
            "TanhExp without Gaussian noise": _mnist(tanhexp),
        },
        metrics=("test_accuracy", "test_loss", "train_loss"),
        claims=(
            Stated(
                words="TanhExp is barely affected by the noise.",
                claim=Near(row="TanhExp", other="TanhExp without Gaussian noise", metric="test_error", margin=0.01),
            ),
            Stated(
                words="Only TanhExp is barely affected by the noise.",
                claim=Beats(row="TanhExp", others=OTHERS, metric="test_error"),
            ),
        ),
        panels=(ACCURACY,),
        runs=5,
    )


def fig_9_alpha_dropout() -> Study:
    """Fig. 9: test accuracy over ten epochs on MNIST with alpha drop-out of 0.2 before the first dense layer.

    Deviation: optimiser, batches and runs as in fig_5_mnist_learning_speed.
    """
    return Study(
        source="TanhExp, Fig. 9",
        question="Does TanhExp learn faster than the others where alpha drop-out restrains the net?",
        trials={name: _alpha_dropout(activation) for name, activation in COMPARED.items()},
        metrics=("test_accuracy", "test_loss", "train_loss"),
        claims=(
            Stated(
                words="TanhExp is still able to converge more quickly than the other activation functions.",
                claim=FallsFastest(row="TanhExp", others=OTHERS, metric="test_error", epochs=10),
            ),
        ),
        panels=(ACCURACY,),
        runs=5,
    )


def fig_10_representations() -> Study:
    """Fig. 10: the output of the alpha drop-out layer for one image, in the nets of Fig. 9 after training.

    Deviation: see fig_9_alpha_dropout for the training; how long the nets of this figure trained is not stated.
    """
    return Study(
        source="TanhExp, Fig. 10",
        question="Are the representations before the dense layers smoother with TanhExp?",
        trials={name: _alpha_dropout(COMPARED[name]) for name in ("TanhExp", "Mish", "Swish", "ReLU")},
        metrics=("representation_roughness", "test_accuracy"),
        claims=(
            Stated(
                words="TanhExp shows smoother and clearer representations than the other three activation functions.",
                claim=Beats(row="TanhExp", others=("Mish", "Swish", "ReLU"), metric="representation_roughness"),
            ),
        ),
        panels=(Images(images="representation", label="the 50 pooled maps of one image"),),
        runs=5,
    )
