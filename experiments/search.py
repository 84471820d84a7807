"""Beyond the papers: learn where the activations should stand, which "Rethinking ReLU" leaves to future work.

Every site of a network is a gate between ReLU and the identity. The gates are trained with the weights; then those that
opened furthest are opened for good, the others shut, and the weights trained again from their beginning. What this is
worth shows beside as many activations at random places, which are drawn anew for every run.

Seen so far (results/): in all six runs the gates of early layers opened furthest, and none of the last two of eight was
kept; its test error did not tell this placement from a random one (p = 0.10).

    python -m experiments run search.learned_placement
"""

from dataclasses import replace

from experiments.proportional import CIFAR10, RECIPE
from relujax.claims import Beats, Stated
from relujax.data import Data, UnitRange
from relujax.gates import Gated, OpenLargest, OpenRandom, OpenThese
from relujax.models.mlp import MLP
from relujax.models.plain import Plain
from relujax.placement import TWO_TO_ONE
from relujax.probes import Gates
from relujax.recipe import Adam, Constant, Epochs, Recipe
from relujax.study import Bars, ByDepth, Curves, Profile, Study
from relujax.trial import Trial

LAYERS = 8  # and as many sites: 784 – 8×128 – 10, the dense network of the ELU paper
KEPT = 4  # of them, the papers' 2:1

DENSE = Trial(
    model=MLP(depth=LAYERS, width=128, num_classes=10, activation=Gated("relu")),
    data=Data(name="mnist", normalize=UnitRange()),
    recipe=Recipe(length=Epochs(5), batch_size=128, optimizer=Adam(), schedule=Constant(1e-3)),
    probes=(Gates(),),
)
# 18 layers and their stem, all with a gate; the gates must not decay, so that only kernels do, in every row.
PLAIN_SITES, PLAIN_KEPT = 19, 10  # of which the papers' 2:1 keeps every other and the stem's
PLAIN = Trial(
    model=Plain(PLAIN_SITES + 1, 10, activation=Gated("relu")),
    data=CIFAR10,
    recipe=replace(RECIPE, decayed="convolutions"),
    probes=(Gates(),),
)

METRICS = ("test_error", "test_loss", "train_loss")
LEARNED, RANDOM, REGULAR, EVERY, GATES = "learned places", "random places", "every other place", "every place", "gates"


def learned_placement() -> Study:
    """Where the gates of an eight-layer dense network on MNIST open, and whether half of its ReLUs serve better there.

    The gates are chosen on the training images; the test images have no part in it. 36 runs of 5 epochs.
    """
    rows = _placements(DENSE, KEPT)
    rows[REGULAR] = replace(DENSE, begin=OpenThese((False, True) * (LAYERS // 2)))
    rows[EVERY] = replace(DENSE, model=DENSE.model.clone(activation="relu"), probes=())
    rows["no place (linear)"] = replace(DENSE, model=DENSE.model.clone(activation="identity"), probes=())
    return _study("dense", f"{KEPT} of {LAYERS}", rows, LAYERS, runs=6)


def learned_placement_plain() -> Study:
    """The same for a plain network of 20 layers on CIFAR-10, with the recipe of "Rethinking ReLU".

    25 runs of 400 epochs.
    """
    rows = _placements(PLAIN, PLAIN_KEPT)
    relu = PLAIN.model.clone(activation="relu")
    rows[REGULAR] = replace(PLAIN, model=relu.clone(placement=TWO_TO_ONE), probes=())
    rows[EVERY] = replace(PLAIN, model=relu, probes=())
    return _study("plain", f"{PLAIN_KEPT} of {PLAIN_SITES}", rows, PLAIN_SITES, runs=5)


def random_placement() -> Study:
    """What an eight-layer dense network on MNIST loses where ReLUs are taken from random places, by their number.

    The spread over runs is that of places, weights and order together. 30 runs of 5 epochs.
    """
    counts = (1, 2, KEPT, 6, LAYERS)
    rows = {f"{count} of {LAYERS}": replace(DENSE, begin=OpenRandom(count)) for count in counts}
    series = {"random places": {count: f"{count} of {LAYERS}" for count in counts}}
    return Study(
        source="Beyond the papers: random placement",
        question="How many ReLUs does a dense network need where they stand at random places?",
        trials=rows,
        metrics=METRICS,
        claims=(
            Stated(
                words="Half of the ReLUs, at random places, serve better than a quarter of them.",
                claim=Beats(row=f"{KEPT} of {LAYERS}", others=(f"2 of {LAYERS}",), metric="test_error"),
            ),
        ),
        panels=(
            ByDepth(metric="test_error", label="test error", series=series, horizontal=f"ReLUs in {LAYERS} layers"),
            ByDepth(metric="train_loss", label="training loss", series=series, horizontal=f"ReLUs in {LAYERS} layers"),
        ),
        runs=6,
    )


def _placements(gated: Trial, kept: int) -> dict[str, Trial]:
    """The gates as they learn, `kept` of them where they opened furthest, and as many at random places."""
    return {
        LEARNED: replace(gated, start_from=gated, begin=OpenLargest(kept)),
        RANDOM: replace(gated, begin=OpenRandom(kept)),
        GATES: gated,
    }


def _study(network: str, some: str, rows: dict[str, Trial], sites: int, runs: int) -> Study:
    gates = tuple(f"gate_{site}" for site in range(1, sites + 1))
    return Study(
        source=f"Beyond the papers: learned placement, {network} network",
        question=f"Is a {network} network with {some} ReLUs better where gates learned to place them?",
        trials=rows,
        metrics=METRICS,
        claims=(
            Stated(
                words="ReLUs serve better where gates learned to place them than at as many random places.",
                claim=Beats(row=LEARNED, others=(RANDOM,), metric="test_error"),
            ),
            Stated(
                words="ReLUs serve better where gates learned to place them than at every other place.",
                claim=Beats(row=LEARNED, others=(REGULAR,), metric="test_error"),
            ),
        ),
        panels=(
            Profile(metrics=gates, label="how far gates are open", horizontal="site", rows=(GATES, LEARNED)),
            Bars(metric="test_error", label="test error"),
            Curves(metrics=("train_loss",), label="training loss", log=True),
        ),
        runs=runs,
    )
