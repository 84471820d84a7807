"""Zhao et al., the proportional module: convolution and ReLU in the ratio N:M instead of 1:1; a function per table.

"Rethinking ReLU to Train Better CNNs" and the earlier "Training Better CNNs Requires to Rethink ReLU" share most of
their tables and figures; a study names both places. Both refer for their training, plain networks and DFN-MR to Zhao
et al. 2016, "On the connection of deep fusion to ensembling", arXiv:1611.07718.

    python -m experiments run proportional.table_1_plain_cifar100 --data-dir DIR

Deviation: learning rates, weight decay, initialisation and augmentation are not stated; those of DFN-MR's code, as the
papers refer to that work.
Deviation: crops are padded with the exact mean colour; DFN-MR's code rounds it to whole grey levels.
Deviation: which epoch the tables print is not stated; the last.
Deviation: images that do not fill the last batch of an epoch sit out.
Deviation: BatchNorm statistics span the whole batch of 64; DFN-MR's code splits it over two GPUs by default.
"""

from functools import partial
from itertools import pairwise

from relujax.activations import leaky_relu
from relujax.claims import Beats, Diverges, Near, Stated, Widens
from relujax.data import Data, Flip, PadCrop, PerChannel
from relujax.models.dfn_mr import DFNMR
from relujax.models.plain import Plain
from relujax.models.preact_resnet import PreActResNet
from relujax.models.resnet import ResNet
from relujax.placement import (
    BOTTLENECK_TYPE_1,
    BOTTLENECK_TYPE_2,
    BOTTLENECK_TYPE_3,
    DROP_FIRST,
    DROP_LAST,
    MIX_1,
    MIX_2,
    MIX_3,
    PAIRED,
    TWO_TO_ONE,
    TYPE_1,
    TYPE_2,
    TYPE_3,
)
from relujax.recipe import Epochs, Recipe, Sgd, StepDecay
from relujax.study import Bars, ByDepth, Curves, Reported, Study
from relujax.trial import Trial

leaky_relu_05 = partial(leaky_relu, negative_slope=0.5)  # "Training Better CNNs", equation 1

# Means, deviations, padding and mirroring of DFN-MR's code.
AUGMENT = (PadCrop(4), Flip(0.5))
CIFAR10 = Data(
    name="cifar10",
    normalize=PerChannel(mean=(125.307, 122.950, 113.865), std=(62.993, 62.089, 66.705)),
    augment=AUGMENT,
)
CIFAR100 = Data(
    name="cifar100",
    normalize=PerChannel(mean=(129.304, 124.070, 112.434), std=(68.170, 65.392, 70.418)),
    augment=AUGMENT,
)

RECIPE = Recipe(
    length=Epochs(400),  # "Rethinking ReLU", section IV-B, as are batch size and Nesterov momentum
    batch_size=64,
    optimizer=Sgd(momentum=0.9, nesterov=True),
    schedule=StepDecay(learning_rates=(0.1, 0.01, 0.001, 0.0001), starts=(0, 200, 300, 350)),
    weight_decay=1e-4,  # on all parameters, biases and BatchNorm's included, as in DFN-MR's code
)

METRICS = ("test_accuracy", "train_error", "train_loss")

PREACT = {"1:1 Pre-Paired": PAIRED, "2:1 Pre-Proportional": DROP_FIRST}
BOTTLENECK = {"baseline": PAIRED, "Type 1": BOTTLENECK_TYPE_1, "Type 2": BOTTLENECK_TYPE_2, "Type 3": BOTTLENECK_TYPE_3}
MERGE_AND_RUN = {
    "Paired Module": PAIRED,
    "Type1 Proportional Module": TYPE_1,
    "Type2 Proportional Module": TYPE_2,
    "Type3 Proportional Module": TYPE_3,
    "Mix1 Proportional Module": MIX_1,
    "Mix2 Proportional Module": MIX_2,
    "Mix3 Proportional Module": MIX_3,
}


def _trial(model: Plain | ResNet | PreActResNet | DFNMR) -> Trial:
    return Trial(model=model, data=CIFAR10 if model.num_classes == 10 else CIFAR100, recipe=RECIPE)


def _better(words: str, row: str, *others: str) -> Stated:
    """`row` is more accurate than each of `others` after the last epoch."""
    return Stated(words=words, claim=Beats(row=row, others=others, metric="test_error"))


def table_1_plain_cifar100() -> Study:
    """Table I (Tables 1 and 2 of the earlier paper): plain networks on CIFAR-100, ratio 1:1 against 2:1, by depth.

    Only the earlier paper has the row of the ensemble module, z ↦ ReLU(z) + z. At depth 38 the papers print a spread of
    1.44 for a gain of 0.21 and claim nothing. 35 runs of 400 epochs.
    """
    gains = {62: "3.98%", 84: "11.82%"}
    placements = {"Paired Module": PAIRED, "2-1 Proportional Module": TWO_TO_ONE}
    depths = (38, 62, 84)
    return Study(
        source="Rethinking ReLU, Table I; Training Better CNNs, Tables 1 and 2",
        question="Does a plain network degrade less with its depth where every other ReLU is removed?",
        trials={
            **{
                f"{name}, {depth}": _trial(Plain(depth, 100, placement=placement))
                for depth in depths
                for name, placement in placements.items()
            },
            "Ensemble Module, 84": _trial(Plain(84, 100, activation="relu_plus_identity")),
        },
        reported={
            "Paired Module, 38": Reported(64.04, 0.14, runs=5),
            "2-1 Proportional Module, 38": Reported(64.25, 1.44, runs=5),
            "Paired Module, 62": Reported(56.88, 1.16, runs=5),
            "2-1 Proportional Module, 62": Reported(60.86, 1.18, runs=5),
            "Paired Module, 84": Reported(44.16, 0.57, runs=5),
            "2-1 Proportional Module, 84": Reported(55.98, 2.59, runs=5),
            "Ensemble Module, 84": Reported(58.52, 0.19, runs=5),
        },
        metrics=METRICS,
        claims=(
            *(
                _better(
                    f"2:1 proportional module improves the performance of the conventional paired module by {gain} in "
                    f"{depth}-layer plain networks.",
                    f"2-1 Proportional Module, {depth}",
                    f"Paired Module, {depth}",
                )
                for depth, gain in gains.items()
            ),
            *(
                _better(
                    f"The degradation problem becomes more serious with the network depth increasing ({deeper} layers "
                    f"against {depth}).",
                    f"Paired Module, {depth}",
                    f"Paired Module, {deeper}",
                )
                for depth, deeper in pairwise(depths)
            ),
            Stated(
                words="2:1 proportional module can alleviate the degradation problem (38 and 84 layers).",
                claim=Widens(
                    narrow=Beats(row="2-1 Proportional Module, 38", others=("Paired Module, 38",), metric="test_error"),
                    wide=Beats(row="2-1 Proportional Module, 84", others=("Paired Module, 84",), metric="test_error"),
                    ahead=False,
                ),
            ),
            _better(
                "The performance of ensemble module is much higher than the conventional paired module.",
                "Ensemble Module, 84",
                "Paired Module, 84",
            ),
        ),
        panels=(
            ByDepth(
                metric="test_accuracy",
                label="test accuracy",
                series={
                    **{name: {depth: f"{name}, {depth}" for depth in depths} for name in placements},
                    "Ensemble Module": {84: "Ensemble Module, 84"},
                },
            ),
            Curves(metrics=("train_loss",), label="training cross-entropy (nats)", log=True),
        ),
    )


def ensemble_leaky_relu() -> Study:
    """Equation 1 and Fig. 3 of the earlier paper: is the ensemble module, ReLU(z) + z, a leaky ReLU of slope 0.5?

    The module is twice that leaky ReLU. The next BatchNorm takes up the factor everywhere but before the pooling, so
    the networks differ by the scale of their last layer's inputs. The paper prints no number for the leaky ReLU. Two of
    the three rows stand in Table 1, too; 15 runs of 400 epochs.

    Deviation: how near is not stated; the mean errors are to differ by less than 1 %, a fourteenth of the printed gain.
    """
    return Study(
        source="Training Better CNNs, equation 1, Fig. 3 and Table 1",
        question="Does a shortcut around every ReLU of a plain network make it as good as one with leaky ReLUs?",
        trials={
            "Paired Module, 84": _trial(Plain(84, 100)),
            "Ensemble Module, 84": _trial(Plain(84, 100, activation="relu_plus_identity")),
            "LeakyReLU(0.5), 84": _trial(Plain(84, 100, activation=leaky_relu_05)),
        },
        reported={
            "Paired Module, 84": Reported(44.16, 0.57, runs=5),
            "Ensemble Module, 84": Reported(58.52, 0.19, runs=5),
        },
        metrics=METRICS,
        claims=(
            Stated(
                words="ReLU in this network become Leaky ReLU whose negative half-axis slope is 0.5.",
                claim=Near(row="Ensemble Module, 84", other="LeakyReLU(0.5), 84", metric="test_error", margin=0.01),
            ),
        ),
        panels=(
            Bars(metric="test_accuracy", label="test accuracy, 84 layers"),
            Curves(metrics=("train_loss",), label="training cross-entropy (nats), 84 layers", log=True),
        ),
    )


def fig_2_all_linear() -> Study:
    """Fig. 2: a plain network on CIFAR-100 without any ReLU, (d), beside the paired and the proportional module.

    BatchNorm stays in (d); with given statistics it is linear, too. Nothing is printed for (d), and the other two rows
    stand in Table I; 15 runs of 400 epochs.

    Deviation: network and data of (d) are not stated; the shallowest network of Table I.
    Deviation: the figure draws two proportional modules, (b) and (c), and no text describes them; one row, 2:1.
    Deviation: "can not work" is not quantified; the training error is never to fall below 90 %, guessing has 99 %.
    """
    return Study(
        source="Rethinking ReLU, Fig. 2",
        question="Does a plain network learn anything once all of its ReLUs are removed?",
        trials={
            "Paired Module, 38": _trial(Plain(38, 100)),
            "2-1 Proportional Module, 38": _trial(Plain(38, 100, placement=TWO_TO_ONE)),
            "Linear Module, 38": _trial(Plain(38, 100, activation="identity")),
        },
        reported={
            "Paired Module, 38": Reported(64.04, 0.14, runs=5),
            "2-1 Proportional Module, 38": Reported(64.25, 1.44, runs=5),
        },
        metrics=METRICS,
        claims=(
            Stated(
                words="If removing all ReLUs, the model becomes a linear module, it can not work.",
                claim=Diverges(row="Linear Module, 38", metric="train_error", never_below=0.9),
            ),
        ),
        panels=(
            Curves(metrics=("test_accuracy",), label="test accuracy, 38 layers"),
            Curves(metrics=("train_loss",), label="training cross-entropy (nats), 38 layers", log=True),
        ),
    )


def fig_3_building_block() -> Study:
    """Fig. 3 (Fig. 2 and equations 4–6 of the earlier paper): the post-activation block without first or last ReLU.

    No number is printed for any row. Both papers leave open whether BatchNorm is redundant where the ReLU goes; the
    last two rows drop it, too. Without the first BatchNorm the two convolutions are one with a larger receptive field.
    With the last ReLU dropped in every block, nothing nonlinear stands on the shortcuts or before the pooling. 25 runs
    of 400 epochs.

    Deviation: depth and data of these experiments are not stated; 62 layers on CIFAR-100, as in Table II.
    Deviation: which ReLU "can help" is not stated; both are judged.
    Deviation: the shortcut where the shape changes is not stated; 1×1 convolution and BatchNorm, as in DFN-MR's code.
    Deviation: "redundant" is not quantified; the mean errors are to differ by less than 0.5 %.
    Deviation: BatchNorm's ε is 1e-5; it is not stated, and 2e-5 in DFN-MR's code.
    """
    block = partial(ResNet, 62, 100, shortcut="projection")
    dropped = {"First": DROP_FIRST, "Last": DROP_LAST}
    return Study(
        source="Rethinking ReLU, Fig. 3; Training Better CNNs, Fig. 2 and equations 4–6",
        question="Which ReLU of a residual building block can go, and does its BatchNorm have to stay?",
        trials={
            "Building block": _trial(block()),
            **{f"{which} ReLU dropped": _trial(block(placement=placement)) for which, placement in dropped.items()},
            **{
                f"{which} ReLU and BN dropped": _trial(block(placement=placement, batch_norm="with_activation"))
                for which, placement in dropped.items()
            },
        },
        metrics=METRICS,
        claims=(
            *(
                _better(
                    f"2:1 convolution and ReLU ratio can help the building block achieve the better performance "
                    f"({which.lower()} ReLU dropped).",
                    f"{which} ReLU dropped",
                    "Building block",
                )
                for which in dropped
            ),
            _better(
                "Removing ReLU in building block has the similar results in pre-activation building block (where the "
                "first is the better one to remove).",
                "First ReLU dropped",
                "Last ReLU dropped",
            ),
            Stated(
                words="The last BN of building block is redundant (both papers ask whether, and leave it open).",
                claim=Near(
                    row="Last ReLU and BN dropped", other="Last ReLU dropped", metric="test_error", margin=0.005
                ),
            ),
        ),
        panels=(
            Bars(metric="test_accuracy", label="test accuracy"),
            Curves(metrics=("train_loss",), label="training cross-entropy (nats)", log=True),
        ),
    )


def table_2_preact_cifar10() -> Study:
    """Table II (Table 3 of the earlier paper), CIFAR-10: pre-activation blocks with and without their first ReLU.

    These are basic blocks, 6n + 2 layers. 10 runs of 400 epochs.

    Deviation: the shortcut where the shape changes is not stated; a 1×1 convolution without BatchNorm.
    Deviation: BatchNorm's ε is 1e-5; it is not stated, and 2e-5 in DFN-MR's code.
    """
    return Study(
        source="Rethinking ReLU, Table II; Training Better CNNs, Table 3 (CIFAR-10)",
        question="Is a pre-activation ResNet better on CIFAR-10 without the first ReLU of its blocks?",
        trials={f"{name}, 62": _trial(PreActResNet(62, 10, placement=placement)) for name, placement in PREACT.items()},
        reported={
            "1:1 Pre-Paired, 62": Reported(93.59, 0.20, runs=5),
            "2:1 Pre-Proportional, 62": Reported(93.97, 0.23, runs=5),
        },
        metrics=METRICS,
        claims=(
            _better(
                "For 62-layer ResNet, 2:1 Pre-Proportional Module achieves 93.97 recognition rate that is higher than "
                "the corresponding baseline on CIFAR-10.",
                "2:1 Pre-Proportional, 62",
                "1:1 Pre-Paired, 62",
            ),
        ),
        panels=(
            Bars(metric="test_accuracy", label="test accuracy, 62 layers"),
            Curves(metrics=("test_accuracy",), label="test accuracy, 62 layers"),
        ),
    )


def table_2_preact_cifar100() -> Study:
    """Table II (Table 3 of the earlier paper), CIFAR-100: the same blocks at three depths.

    These are basic blocks, 6n + 2 layers. The earlier paper's text has gains of 0.9816 and 1.1136 at depths 110 and
    164, its table 0.95 and 1.12. 30 runs of 400 epochs.

    Deviation: the shortcut where the shape changes is not stated; a 1×1 convolution without BatchNorm.
    Deviation: BatchNorm's ε is 1e-5; it is not stated, and 2e-5 in DFN-MR's code.
    """
    depths = (62, 110, 164)
    words = {
        62: "For CIFAR-100, this strategy also achieves the better performance in 62-layer ResNet.",
        110: "Our method improves the recognition rate by 0.95 on CIFAR-100 (110 layers).",
        164: "Our method improves the recognition rate by 1.12 on CIFAR-100 (164 layers).",
    }
    return Study(
        source="Rethinking ReLU, Table II; Training Better CNNs, Table 3 (CIFAR-100)",
        question="Is a pre-activation ResNet better on CIFAR-100 without the first ReLU of its blocks, at every depth?",
        trials={
            f"{name}, {depth}": _trial(PreActResNet(depth, 100, placement=placement))
            for depth in depths
            for name, placement in PREACT.items()
        },
        reported={
            "1:1 Pre-Paired, 62": Reported(71.43, 0.32, runs=5),
            "2:1 Pre-Proportional, 62": Reported(72.19, 0.18, runs=5),
            "1:1 Pre-Paired, 110": Reported(72.46, 0.10, runs=5),
            "2:1 Pre-Proportional, 110": Reported(73.41, 0.10, runs=5),
            "1:1 Pre-Paired, 164": Reported(73.00, 0.31, runs=5),
            "2:1 Pre-Proportional, 164": Reported(74.12, 0.22, runs=5),
        },
        metrics=METRICS,
        claims=tuple(
            _better(words[depth], f"2:1 Pre-Proportional, {depth}", f"1:1 Pre-Paired, {depth}") for depth in depths
        ),
        panels=(
            ByDepth(
                metric="test_accuracy",
                label="test accuracy",
                series={name: {depth: f"{name}, {depth}" for depth in depths} for name in PREACT},
            ),
        ),
    )


def section_3_preactivation_block() -> Study:
    """Section III-B and equations 7–9: which of its two ReLUs a pre-activation block can lose, and its BatchNorm too.

    The first two rows stand in Table II. For the others nothing is printed, though the text says which ReLU is the
    better one to remove; it asks whether the first BatchNorm is redundant, and leaves it open. 25 runs of 400 epochs.

    Deviation: depth and data are not stated; 62 layers on CIFAR-100, as in Table II.
    Deviation: the shortcut where the shape changes is not stated; a 1×1 convolution without BatchNorm.
    Deviation: "redundant" is not quantified; the mean errors are to differ by less than 0.5 %.
    Deviation: BatchNorm's ε is 1e-5; it is not stated, and 2e-5 in DFN-MR's code.
    """
    block = partial(PreActResNet, 62, 100)
    without_bn = {"First": DROP_FIRST, "Second": DROP_LAST}
    return Study(
        source="Rethinking ReLU, section III-B and Fig. 4; Training Better CNNs, equations 7–9",
        question="Which ReLU of a pre-activation block can go, and does its BatchNorm have to stay?",
        trials={
            "1:1 Pre-Paired, 62": _trial(block()),
            "2:1 Pre-Proportional, 62": _trial(block(placement=DROP_FIRST)),
            "Second ReLU dropped, 62": _trial(block(placement=DROP_LAST)),
            **{
                f"{which} ReLU and BN dropped, 62": _trial(block(placement=placement, batch_norm="with_activation"))
                for which, placement in without_bn.items()
            },
        },
        reported={
            "1:1 Pre-Paired, 62": Reported(71.43, 0.32, runs=5),
            "2:1 Pre-Proportional, 62": Reported(72.19, 0.18, runs=5),
        },
        metrics=METRICS,
        claims=(
            _better(
                "Removing the first ReLU of pre-activation block achieves the higher performance than removing the "
                "second one.",
                "2:1 Pre-Proportional, 62",
                "Second ReLU dropped, 62",
            ),
            Stated(
                words="The first BN of pre-activation building block is redundant (both papers ask whether, and leave "
                "it open).",
                claim=Near(
                    row="First ReLU and BN dropped, 62",
                    other="2:1 Pre-Proportional, 62",
                    metric="test_error",
                    margin=0.005,
                ),
            ),
        ),
        panels=(
            Bars(metric="test_accuracy", label="test accuracy, 62 layers"),
            Curves(metrics=("train_loss",), label="training cross-entropy (nats), 62 layers", log=True),
        ),
    )


def fig_6_preact110_cifar10() -> Study:
    """Fig. 6 (Fig. 7 of the earlier paper): test accuracy over epochs of 110 layers of basic blocks on CIFAR-10.

    The figure is a plot without numbers. 10 runs of 400 epochs.

    Deviation: how many runs a curve stands for is not stated; 5, as in the tables.
    Deviation: the shortcut where the shape changes is not stated; a 1×1 convolution without BatchNorm.
    Deviation: BatchNorm's ε is 1e-5; it is not stated, and 2e-5 in DFN-MR's code.
    """
    return Study(
        source="Rethinking ReLU, Fig. 6; Training Better CNNs, Fig. 7",
        question="Does a 110-layer pre-activation ResNet reach a better accuracy without the first ReLU of its blocks?",
        trials={name: _trial(PreActResNet(110, 10, placement=placement)) for name, placement in PREACT.items()},
        metrics=METRICS,
        claims=(
            _better(
                "2:1 Pre-Proportional Module can further improve the performance of traditional 110-layer ResNet.",
                "2:1 Pre-Proportional",
                "1:1 Pre-Paired",
            ),
        ),
        panels=(Curves(metrics=("test_accuracy",), label="test accuracy"),),
    )


def fig_7_bottleneck110_cifar100() -> Study:
    """Fig. 7 (Fig. 8 of the earlier paper): 110 layers of bottlenecks on CIFAR-100 without one of their three ReLUs.

    The figure is a plot without numbers. Bottlenecks have 9n + 2 layers, n = 12. 20 runs of 400 epochs.

    Deviation: how many runs a curve stands for is not stated; 5, as in the tables.
    Deviation: the shortcut where the shape changes is not stated; a 1×1 convolution without BatchNorm.
    Deviation: BatchNorm's ε is 1e-5; it is not stated, and 2e-5 in DFN-MR's code.
    """
    return Study(
        source="Rethinking ReLU, Fig. 7; Training Better CNNs, Fig. 8",
        question="Which of the three ReLUs of a pre-activation bottleneck can go in a 110-layer ResNet?",
        trials=_bottlenecks(110),
        metrics=METRICS,
        claims=(
            *(
                _better(
                    f"Type 1, 2 of Bottleneck Pre-Proportional Module improve the performance of baseline ({row}).",
                    row,
                    "baseline",
                )
                for row in ("Type 1", "Type 2")
            ),
            _better("Removing the first ReLU yields the best accuracy.", "Type 1", "baseline", "Type 2", "Type 3"),
            _better(
                "The performance of Type 3 Bottleneck Pre-Proportional Module is reduced.",
                "baseline",
                "Type 3",
            ),
            *(
                _better(
                    "The influence of the last ReLU in a pre-activation bottleneck is the most important (to drop it "
                    f"costs more than {row}).",
                    row,
                    "Type 3",
                )
                for row in ("Type 1", "Type 2")
            ),
        ),
        panels=(Curves(metrics=("test_accuracy",), label="test accuracy"),),
    )


def fig_8_bottleneck164_cifar100() -> Study:
    """Fig. 8 (Fig. 9 of the earlier paper): the same four bottleneck networks with 164 layers.

    The figure is a plot without numbers. Bottlenecks have 9n + 2 layers, n = 18. 40 runs of 400 epochs: the rows of 110
    layers, against which the text holds them, are the 20 of Fig. 7.

    Deviation: how many runs a curve stands for is not stated; 5, as in the tables.
    Deviation: the shortcut where the shape changes is not stated; a 1×1 convolution without BatchNorm.
    Deviation: BatchNorm's ε is 1e-5; it is not stated, and 2e-5 in DFN-MR's code.
    """
    return Study(
        source="Rethinking ReLU, Fig. 8; Training Better CNNs, Fig. 9",
        question="Which of the three ReLUs of a pre-activation bottleneck can go in a 164-layer ResNet?",
        trials={**_bottlenecks(164), **{f"{row}, 110 layers": trial for row, trial in _bottlenecks(110).items()}},
        metrics=METRICS,
        claims=(
            *(
                _better(
                    f"The experiments in 164-layer ResNet have the similar results compared with 110-layer ResNet "
                    f"({row} improves the performance of baseline).",
                    row,
                    "baseline",
                )
                for row in ("Type 1", "Type 2")
            ),
            _better("Removing the third ReLU also improves the accuracy of baseline.", "Type 3", "baseline"),
            *(
                Stated(
                    words="The improvements of 164-layer ResNet with 3:2 convolution and ReLU ratio are higher than "
                    f"the improvements of 110-layer ResNet ({row}).",
                    claim=Widens(
                        narrow=Beats(row=f"{row}, 110 layers", others=("baseline, 110 layers",), metric="test_error"),
                        wide=Beats(row=row, others=("baseline",), metric="test_error"),
                    ),
                )
                for row in BOTTLENECK
                if row != "baseline"
            ),
        ),
        panels=(Curves(metrics=("test_accuracy",), label="test accuracy", rows=tuple(BOTTLENECK)),),
    )


def _bottlenecks(depth: int) -> dict[str, Trial]:
    return {
        name: _trial(PreActResNet(depth, 100, block="bottleneck", placement=placement))
        for name, placement in BOTTLENECK.items()
    }


def table_3_dfn_cifar100() -> Study:
    """Table III (Table 4 of the earlier paper), CIFAR-100: the merge-and-run block without one ReLU of four, or more.

    "Depth 110" is that of the corresponding plain network; DFN-MR1 is 56 layers deep. The row of the paired module is
    taken over from DFN-MR's authors. Mix1 stands in the earlier paper only, which draws Type3, Mix2 and Mix3 without a
    printed number. 35 runs of 400 epochs.

    Deviation: the text does not describe Type3 and the mixes; Type3 drops both ReLUs of Type1 and Type2, and a mix
    repeats the three types block after block, from the type of its own number on.
    Deviation: in which of the two lines the ReLU goes is not stated; in line a, as the lines are alike.
    Deviation: "cannot improve" is judged as "is worse", as the printed numbers are.
    """
    return Study(
        source="Rethinking ReLU, Table III; Training Better CNNs, Table 4 (CIFAR-100)",
        question="Which ReLU of a merge-and-run block can go on CIFAR-100: inside a line, after the sum, or both?",
        trials=_merge_and_run(100),
        reported={
            "Paired Module": Reported(75.59, 0.19, runs=5),
            "Type1 Proportional Module": Reported(75.61, 0.38, runs=5),
            "Type2 Proportional Module": Reported(74.53, 0.80, runs=5),
            "Mix1 Proportional Module": Reported(73.70, 0.46, runs=5),
        },
        metrics=METRICS,
        claims=(
            _better(
                "Type 1 Proportional Module achieves the better performance on CIFAR-10 and CIFAR-100.",
                "Type1 Proportional Module",
                "Paired Module",
            ),
            _better(
                "Type 2 Proportional Module cannot improve the performance compared with the baseline.",
                "Paired Module",
                "Type2 Proportional Module",
            ),
            _better(
                "The first ReLU in the merge and run block is more important than the ReLU after element-wise.",
                "Type1 Proportional Module",
                "Type2 Proportional Module",
            ),
            _better(
                "Mix1 Cross Proportional Module acquires worse performance than Type2 Cross Proportional Module.",
                "Type2 Proportional Module",
                "Mix1 Proportional Module",
            ),
        ),
        panels=(
            Bars(metric="test_accuracy", label="test accuracy"),
            Curves(metrics=("test_accuracy",), label="test accuracy"),
        ),
    )


def table_3_dfn_cifar10() -> Study:
    """Table III (Table 4 of the earlier paper), CIFAR-10: the merge-and-run block without one ReLU of four, or more.

    "Depth 110" is that of the corresponding plain network; DFN-MR1 is 56 layers deep. The row of the paired module is
    taken over from DFN-MR's authors. Only it and Type1 have a printed number on CIFAR-10. 35 runs of 400 epochs.

    Deviation: the text does not describe Type3 and the mixes; Type3 drops both ReLUs of Type1 and Type2, and a mix
    repeats the three types block after block, from the type of its own number on.
    Deviation: in which of the two lines the ReLU goes is not stated; in line a, as the lines are alike.
    """
    return Study(
        source="Rethinking ReLU, Table III; Training Better CNNs, Table 4 (CIFAR-10)",
        question="Which ReLU of a merge-and-run block can go on CIFAR-10: inside a line, after the sum, or both?",
        trials=_merge_and_run(10),
        reported={
            "Paired Module": Reported(95.04, 0.06, runs=5),
            "Type1 Proportional Module": Reported(95.26, 0.14, runs=5),
        },
        metrics=METRICS,
        claims=(
            _better(
                "Type 1 Proportional Module achieves the better performance on CIFAR-10 and CIFAR-100.",
                "Type1 Proportional Module",
                "Paired Module",
            ),
        ),
        panels=(
            Bars(metric="test_accuracy", label="test accuracy"),
            Curves(metrics=("test_accuracy",), label="test accuracy"),
        ),
    )


def _merge_and_run(num_classes: int) -> dict[str, Trial]:
    return {name: _trial(DFNMR(110, num_classes, placement=placement)) for name, placement in MERGE_AND_RUN.items()}
