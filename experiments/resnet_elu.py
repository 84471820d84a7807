"""Shah et al. 2016, "Deep residual networks with exponential linear unit", arXiv:1604.04112: one function per table or
figure.

    python -m experiments run resnet_elu.table_1_depth_cifar10 --data-dir DIR

Deviation: the number of epochs is not stated; 164, as in Facebook's Torch code, whose words the paper uses.
Deviation: the kind of momentum is not stated; Nesterov's, as in that code, like the channels' mean and std.
Deviation: no warm-up is stated and there is none here; He et al. warmed up their 110-layer network.
Deviation: images that do not fill the last batch of an epoch sit out; in that code they are a smaller batch.
Deviation: the paper evidently trained each network once; five runs each, so that the claims can be tested.
Deviation: which parameters decay is not stated; all of them, biases and BatchNorm's included.
Deviation: training losses and errors are means over the batches of an epoch, while the weights change.
"""

from relujax.claims import Beats, Below, Diverges, FallsFastest, Learns, Near, Stated, StaysNearest, Widens
from relujax.data import Data, Flip, PadCrop, PerChannel
from relujax.models.resnet import ResNet
from relujax.models.resnet_elu import ResNetELU
from relujax.recipe import Epochs, Recipe, Sgd, StepDecay
from relujax.study import Bars, ByDepth, Curves, Reported, Study
from relujax.trial import Trial

# "Color-normalized" (section 4.1): means and deviations of Facebook's Torch code, which flips before it crops.
AUGMENT = (Flip(0.5), PadCrop(4))
CIFAR10 = Data(
    name="cifar10",
    normalize=PerChannel(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)),
    augment=AUGMENT,
)
CIFAR100 = Data(
    name="cifar100",
    normalize=PerChannel(mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)),
    augment=AUGMENT,
)

DEPTHS = (20, 32, 44, 56, 110)
FIRST_RATE = 81  # epochs at the first learning rate, in which the curves of learning differ (section 4.1.1)
SAME = 0.005  # test errors nearer than this are "nearly the same"; the paper prints 8.38 and 8.32 %
NOT_LEARNT = 0.85  # a training error that never falls below it; guessing has 0.9

ORIGINAL, ELU, AFTER = "Original ResNet", "ResNet with ELU", "ELU after Addition"


def _recipe(learning_rate: float) -> Recipe:
    return Recipe(
        length=Epochs(164),  # not stated; Facebook's Torch code
        batch_size=128,
        optimizer=Sgd(momentum=0.9, nesterov=True),
        schedule=StepDecay(
            learning_rates=(learning_rate, learning_rate / 10, learning_rate / 100), starts=(0, FIRST_RATE, 122)
        ),
        weight_decay=1e-4,
    )


def _original(depth: int, data: Data = CIFAR10) -> Trial:
    """He et al.'s network as Facebook's Torch code builds it."""
    model = ResNet(depth, 10 if data == CIFAR10 else 100, shortcut="pad", he="fan_out")
    return Trial(model=model, data=data, recipe=_recipe(0.1))


def _elu(depth: int, data: Data = CIFAR10, *, block: str = "conv-elu-conv-bn", learning_rate: float = 0.1) -> Trial:
    model = ResNetELU(depth, 10 if data == CIFAR10 else 100, block=block)
    return Trial(model=model, data=data, recipe=_recipe(learning_rate))


def _both_by_depth() -> dict[str, Trial]:
    """Rows of Table 1, which Figs. 5 and 6 show from other sides."""
    return {
        f"{name}, {depth}": network(depth)
        for depth in DEPTHS
        for name, network in {ORIGINAL: _original, ELU: _elu}.items()
    }


def _panels_by_depth(metric: str, label: str, *, log: bool = False) -> tuple[Curves, ...]:
    return tuple(
        Curves(
            metrics=(metric,),
            label=f"{label}, {depth} layers",
            log=log,
            rows=(f"{ORIGINAL}, {depth}", f"{ELU}, {depth}"),
        )
        for depth in DEPTHS
    )


def _learns_faster(depth: int) -> FallsFastest:
    return FallsFastest(row=f"{ELU}, {depth}", others=(f"{ORIGINAL}, {depth}",), metric="train_loss", epochs=FIRST_RATE)


def _errs_less(depth: int) -> Beats:
    return Beats(row=f"{ELU}, {depth}", others=(f"{ORIGINAL}, {depth}",), metric="test_error")


def table_1_depth_cifar10() -> Study:
    """Table 1: test error of ResNets with ELU and of original ResNets on CIFAR-10, by depth.

    Every number is of the epoch with the lowest error on the test images, which are the validation images, too. An
    independent rerun of this block at 110 layers (pelu.resnet.torch: batch 256, weight decay 1e-3, 200 epochs) got the
    opposite: 6.55 % with ELU, 5.67 % with ReLU and BatchNorm, means of 5 runs. 50 runs of 164 epochs.

    Deviation: "nearly the same" is not quantified; the mean errors are to differ by less than 0.5 %.
    """
    return Study(
        source="ResNet with ELU, Table 1",
        question="Does ELU in place of ReLU and BatchNorm make residual networks more accurate as they grow deeper?",
        trials=_both_by_depth(),
        reported={
            "Original ResNet, 20": Reported(8.38),
            "ResNet with ELU, 20": Reported(8.32),
            "Original ResNet, 32": Reported(7.51),
            "ResNet with ELU, 32": Reported(7.30),
            "Original ResNet, 44": Reported(7.17),
            "ResNet with ELU, 44": Reported(6.93),
            "Original ResNet, 56": Reported(6.97),
            "ResNet with ELU, 56": Reported(6.31),
            "Original ResNet, 110": Reported(6.42),
            "ResNet with ELU, 110": Reported(5.62),
        },
        metrics=("test_error", "train_error", "train_loss"),
        epoch="best",
        claims=(
            Stated(
                words="For the 20-layer model, the test error is nearly the same for both the models.",
                claim=Near(row=f"{ELU}, 20", other=f"{ORIGINAL}, 20", metric="test_error", margin=SAME, epoch="best"),
            ),
            *(
                Stated(
                    words=f"As the depth increases, our model significantly outperforms the original model ({depth}).",
                    claim=Beats(
                        row=f"{ELU}, {depth}", others=(f"{ORIGINAL}, {depth}",), metric="test_error", epoch="best"
                    ),
                )
                for depth in DEPTHS[1:]
            ),
        ),
        panels=(
            ByDepth(
                metric="test_error",
                label="test error",
                series={name: {depth: f"{name}, {depth}" for depth in DEPTHS} for name in (ORIGINAL, ELU)},
            ),
        ),
    )


def fig_4_elu_after_addition() -> Study:
    """Fig. 4: test error on CIFAR-10 with another ELU after the addition (Fig. 3c), beside the original ResNet.

    The figure is a plot without numbers; the printed ones are Table 1's, of the best epoch on the test images. The
    paper's own block is a third series, for the claim that leaving the ELU out does not degrade. Two of the three
    series stand in Table 1, too; 75 runs of 164 epochs.

    Deviation: which depths the figure has is not stated; those of Table 1.
    Deviation: which models are the deeper ones is not stated; 56 and 110 layers, as in section 3.2.1.
    Deviation: "the accuracy degrades" can be read in two ways; judged as an error above that of the original ResNet,
    and "does not degrade" as one below that of ELU after Addition.
    """
    networks = {
        ORIGINAL: {depth: _original(depth) for depth in DEPTHS},
        AFTER: {depth: _elu(depth, block="conv-elu-conv-bn-elu") for depth in DEPTHS},
        ELU: {depth: _elu(depth) for depth in DEPTHS},
    }

    def beats(words: str, row: str, other: str) -> Stated:
        return Stated(words=words, claim=Beats(row=row, others=(other,), metric="test_error", epoch="best"))

    return Study(
        source="ResNet with ELU, Fig. 4",
        question="Does an ELU after the addition degrade deep residual networks?",
        trials={f"{name}, {depth}": networks[name][depth] for depth in DEPTHS for name in networks},
        reported=table_1_depth_cifar10().reported,
        metrics=("test_error", "train_error", "train_loss"),
        epoch="best",
        claims=(
            beats("This model gives better accuracy for 20-layer model.", f"{AFTER}, 20", f"{ORIGINAL}, 20"),
            *(
                beats(
                    f"As we increased the depth of the network, the accuracy degrades for the deeper models ({depth}).",
                    f"{ORIGINAL}, {depth}",
                    f"{AFTER}, {depth}",
                )
                for depth in (56, 110)
            ),
            *(
                beats(
                    f"Not including ELU after addition does not degrade the accuracy, unlike the previous model "
                    f"({depth}).",
                    f"{ELU}, {depth}",
                    f"{AFTER}, {depth}",
                )
                for depth in (56, 110)
            ),
        ),
        panels=(
            ByDepth(
                metric="test_error",
                label="test error",
                series={name: {depth: f"{name}, {depth}" for depth in DEPTHS} for name in networks},
            ),
            *(
                Curves(
                    metrics=("test_error",),
                    label=f"test error, {depth} layers",
                    rows=tuple(f"{name}, {depth}" for name in networks),
                )
                for depth in (20, 110)
            ),
        ),
    )


def fig_5_learning_behavior() -> Study:
    """Fig. 5: training loss over epochs of the networks of Table 1.

    The same runs as Table 1, and a plot without numbers.

    Deviation: "converges many epochs before" is not quantified; judged by the mean loss over the first 81 epochs.
    Deviation: that the difference increases with the depth is judged by 20 and 110 layers.
    Deviation: the loss that both models end with is that of the last epoch, 164; the paper says "after 125 epochs".
    """
    return Study(
        source="ResNet with ELU, Fig. 5",
        question="Do residual networks learn faster with ELU, and the more so the deeper they are?",
        trials=_both_by_depth(),
        metrics=("train_loss", "train_error", "test_error"),
        claims=(
            *(
                Stated(
                    words="For all the different number of layers, our model converges many epochs before the original "
                    f"model ({depth}).",
                    claim=_learns_faster(depth),
                )
                for depth in DEPTHS
            ),
            *(
                Stated(
                    words=f"Our model has a slightly lower training loss compared to the original model ({depth}).",
                    claim=Beats(row=f"{ELU}, {depth}", others=(f"{ORIGINAL}, {depth}",), metric="train_loss"),
                )
                for depth in DEPTHS
            ),
            Stated(
                words="The difference between the learning rate of these two models increases as the depth increases.",
                claim=Widens(narrow=_learns_faster(DEPTHS[0]), wide=_learns_faster(DEPTHS[-1])),
            ),
        ),
        panels=_panels_by_depth("train_loss", "training cross-entropy (nats)", log=True),
    )


def fig_6_test_error() -> Study:
    """Fig. 6: test error over epochs of the networks of Table 1.

    The same runs as Table 1, which judges the best epoch on the test images; the curves are judged by their end.

    Deviation: the claims are judged after the last epoch, so that no number is chosen on the test images.
    Deviation: that the gap increases with the depth is judged by 20 and 110 layers.
    Deviation: "nearly the same" is not quantified; the mean errors are to differ by less than 0.5 %.
    """
    return Study(
        source="ResNet with ELU, Fig. 6",
        question="Do the test errors of residual networks with ELU and of the original ones part as the depth grows?",
        trials=_both_by_depth(),
        metrics=("test_error", "train_error", "train_loss"),
        claims=(
            Stated(
                words="For the 20-layer model, the test error is nearly the same for both the models (last epoch).",
                claim=Near(row=f"{ELU}, 20", other=f"{ORIGINAL}, 20", metric="test_error", margin=SAME),
            ),
            *(
                Stated(
                    words="As the depth increases, our model significantly outperforms the original model "
                    f"({depth}, last epoch).",
                    claim=_errs_less(depth),
                )
                for depth in DEPTHS[1:]
            ),
            Stated(
                words="The gap between the test error of the two models increases as the depth is also increased.",
                claim=Widens(narrow=_errs_less(DEPTHS[0]), wide=_errs_less(DEPTHS[-1])),
            ),
        ),
        panels=_panels_by_depth("test_error", "test error"),
    )


def fig_7_cifar100() -> Study:
    """Fig. 7: training loss (a) and test error (b) of both 110-layer networks on CIFAR-100.

    The printed numbers are those of section 4.2, of the best epoch on the test images. 10 runs of 164 epochs.

    Deviation: "learns faster" is not quantified; judged by the mean training loss over the first 81 epochs.
    Deviation: "from the starting epoch itself" is judged by the first epoch, and by the mean over all.
    """
    return Study(
        source="ResNet with ELU, Fig. 7",
        question="Does a 110-layer residual network with ELU learn CIFAR-100 faster and better than the original one?",
        trials={ORIGINAL: _original(110, CIFAR100), ELU: _elu(110, CIFAR100)},
        reported={ORIGINAL: Reported(27.23), ELU: Reported(26.55)},
        metrics=("test_error", "train_error", "train_loss"),
        epoch="best",
        claims=(
            Stated(
                words="Our model learns faster than the original ResNet model.",
                claim=FallsFastest(row=ELU, others=(ORIGINAL,), metric="train_loss", epochs=FIRST_RATE),
            ),
            Stated(
                words="The test error of our model is much lower from the starting epoch itself (the first epoch).",
                claim=FallsFastest(row=ELU, others=(ORIGINAL,), metric="test_error", epochs=1),
            ),
            Stated(
                words="The test error of our model is much lower from the starting epoch itself (all epochs).",
                claim=StaysNearest(row=ELU, others=(ORIGINAL,), metric="test_error"),
            ),
            Stated(
                words="Our model reduces the test error (from 27.23%) to 26.55%.",
                claim=Beats(row=ELU, others=(ORIGINAL,), metric="test_error", epoch="best"),
            ),
        ),
        panels=(
            Curves(metrics=("train_loss",), label="training cross-entropy (nats)", log=True),
            Curves(metrics=("test_error",), label="test error"),
        ),
    )


def table_2_comparison() -> Study:
    """Table 2: the 110-layer networks beside errors that others published, all with standard augmentation.

    Our rows are runs of Table 1 and Fig. 7. The row "ResNet [1]" is the paper's own rerun, not He et al.'s number, and
    both of its rows are of the best epoch on the test images; nothing says which epoch the others print.
    """
    sets = {"CIFAR-10": CIFAR10, "CIFAR-100": CIFAR100}
    return Study(
        source="ResNet with ELU, Table 2",
        question="Where does a 110-layer residual network with ELU stand among the networks of its time?",
        trials={
            f"{row}, {name}": network(110, data)
            for row, network in {"ResNet": _original, ELU: _elu}.items()
            for name, data in sets.items()
        },
        reported={
            "ResNet, CIFAR-10": Reported(6.42),
            "ResNet, CIFAR-100": Reported(27.23),
            "ResNet with ELU, CIFAR-10": Reported(5.62),
            "ResNet with ELU, CIFAR-100": Reported(26.55),
        },
        published={
            "Maxout, CIFAR-10": Reported(9.38),
            "DropConnect, CIFAR-10": Reported(9.32),
            "Net in Net, CIFAR-10": Reported(8.81),
            "Deeply Supervised, CIFAR-10": Reported(7.97),
            "Frac. Pool, CIFAR-100": Reported(27.62),
            "All-CNN, CIFAR-10": Reported(7.25),
            "Learning-Activation, CIFAR-10": Reported(7.51),
            "Learning-Activation, CIFAR-100": Reported(30.83),
            "R-CNN, CIFAR-10": Reported(7.09),
            "Scalable BO, CIFAR-10": Reported(6.37),
            "Scalable BO, CIFAR-100": Reported(27.40),
            "Highway Networks, CIFAR-10": Reported(7.60),
            "Highway Networks, CIFAR-100": Reported(32.24),
            "Gen. Pool, CIFAR-10": Reported(6.05),
        },
        metrics=("test_error", "train_error", "train_loss"),
        epoch="best",
        claims=(
            *(
                Stated(
                    words="Our model outperforms the original ResNet model in terms of classification performance on "
                    f"both the datasets ({name}).",
                    claim=Beats(row=f"{ELU}, {name}", others=(f"ResNet, {name}",), metric="test_error", epoch="best"),
                )
                for name in sets
            ),
            *(
                Stated(
                    words=f"We improve beyond the current state-of-the-art in terms of test error ({name}).",
                    claim=Below(row=f"{ELU}, {name}", metric="test_error", value=best, epoch="best"),
                )
                for name, best in {"CIFAR-10": 0.0605, "CIFAR-100": 0.2740}.items()  # Gen. Pool, Scalable BO
            ),
        ),
        panels=tuple(
            Bars(
                metric="test_error",
                label=f"test error on {name}",
                rows=(f"ResNet, {name}", f"{ELU}, {name}"),
            )
            for name in sets
        ),
    )


def section_3_2_blocks() -> Study:
    """Section 3.2, Fig. 3: the four residual blocks with ELU on CIFAR-10, two of which are said to blow up.

    The text names 20, 56 and 110 layers and prints no numbers but Table 1's, of the best epoch on the test images. At
    a learning rate of 0.1 the last two blocks are runs of Table 1 and Fig. 4. 90 runs of 164 epochs, less what
    diverges.

    Deviation: the decreased learning rate is not stated; a tenth throughout.
    Deviation: not to converge is a training error that is never below 85 %, be it that a loss is no number before;
    guessing has 90 %. To start converging is an error below that, and no such loss.
    Deviation: "very less accuracy" is judged among the runs that did not diverge.
    """
    depths = (20, 56, 110)
    a, b, c, d = "Conv-ELU-Conv-ELU", "ELU-Conv-ELU-Conv", f"Conv-ELU-Conv-BN and {AFTER}", "Conv-ELU-Conv-BN"
    blocks = {a: "conv-elu-conv-elu", b: "elu-conv-elu-conv", c: "conv-elu-conv-bn-elu", d: "conv-elu-conv-bn"}
    rates = {a: (0.1, 0.01), b: (0.1, 0.01), c: (0.1,), d: (0.1,)}

    def row(block: str, depth: int, learning_rate: float = 0.1) -> str:
        return f"{block}, {depth}" + ("" if learning_rate == 0.1 else f", lr {learning_rate:g}")

    def diverges(words: str, failing: str) -> Stated:
        return Stated(words=words, claim=Diverges(row=failing, metric="train_error", never_below=NOT_LEARNT))

    return Study(
        source="ResNet with ELU, section 3.2 and Fig. 3",
        question="Which residual blocks with ELU train at all, and is one BatchNorm per block enough to prevent that "
        "their gradients explode?",
        trials={
            row(name, depth, rate): _elu(depth, block=block, learning_rate=rate)
            for name, block in blocks.items()
            for rate in rates[name]
            for depth in depths
        },
        reported={row(d, 20): Reported(8.32), row(d, 56): Reported(6.31), row(d, 110): Reported(5.62)},
        metrics=("test_error", "train_error", "train_loss"),
        epoch="best",
        claims=(
            *(
                diverges(f"Conv-ELU-Conv-ELU: after few iterations, the gradients blew up ({depth}).", row(a, depth))
                for depth in depths
            ),
            Stated(
                words="When the learning rate is decreased, the 20-layer model starts converging …",
                claim=Learns(row=row(a, 20, 0.01), metric="train_error", below=NOT_LEARNT),
            ),
            Stated(
                words="… but to very less accuracy.",
                claim=Beats(
                    row=row(d, 20),
                    others=(row(a, 20, 0.01),),
                    metric="test_error",
                    epoch="best",
                    diverged="left out",
                ),
            ),
            *(
                diverges(
                    "The deeper models like 56 and 110-layer still do not converge after decreasing the learning rate "
                    f"({depth}).",
                    row(a, depth, 0.01),
                )
                for depth in (56, 110)
            ),
            *(
                diverges(f"ELU-Conv-ELU-Conv: the gradients exploded after few iterations ({depth}).", row(b, depth))
                for depth in depths
            ),
            *(
                diverges(
                    f"Even decreasing the learning rate also does not reduce this problem ({depth}).",
                    row(b, depth, 0.01),
                )
                for depth in depths
            ),
            *(
                Stated(
                    words="The Batch Normalization layer reduces the exploding gradient problem found in the previous "
                    f"two models ({depth}).",
                    claim=Beats(row=row(c, depth), others=(row(a, depth), row(b, depth)), metric="train_loss"),
                )
                for depth in depths
            ),
        ),
        panels=tuple(
            Curves(
                metrics=("train_loss",),
                label=f"training cross-entropy (nats), {depth} layers",
                log=True,
                rows=tuple(row(name, depth, rate) for name in blocks for rate in rates[name]),
            )
            for depth in depths
        ),
    )
