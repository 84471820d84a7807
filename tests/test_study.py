from dataclasses import replace

import numpy as np
import pytest
from flax import linen as nn

from experiments import elu
from relujax.claims import (
    Beats,
    Below,
    Diverges,
    FallsFastest,
    Learns,
    LessVariance,
    Near,
    ReachesFirst,
    Stated,
    StaysNearest,
    Verdict,
    Widens,
    judge,
)
from relujax.errors import InputError
from relujax.statistics import rank_sum
from relujax.study import adapt, rehearsal_reasons
from relujax.trial import RunResult


def run(seed=0, status="done", dataset="mnist", **curves):
    epochs = len(next(iter(curves.values())))
    history = tuple({name: float(values[epoch]) for name, values in curves.items()} for epoch in range(epochs))
    return RunResult(trial_id="t", seed=seed, status=status, history=history, environment={"dataset": dataset})


def runs(*finals):
    return [run(seed, loss=[9.0, final]) for seed, final in enumerate(finals)]


class FixedPrecision(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(10)(images.reshape(len(images), -1))


CLAIM = Stated(words="A beats B and C.", claim=Beats(row="A", others=("B", "C"), metric="loss"))
LOW, HIGH, HIGHER = runs(1, 2, 3, 4, 5), runs(6, 7, 8, 9, 10), runs(11, 12, 13, 14, 15)


def test_a_clear_difference_on_enough_runs_is_reproduced():
    judgement = judge(CLAIM, {"A": LOW, "B": HIGH, "C": HIGHER})
    assert judgement.verdict is Verdict.REPRODUCED
    assert judgement.p_value == pytest.approx(2 * 2 / 252)  # Holm: the smaller of two is doubled, the larger kept above
    assert "A 3 (n=5), B 8 (n=5), C 13 (n=5)" in judgement.finding


def test_a_difference_the_other_way_and_one_within_chance_are_not_reproduced():
    assert judge(CLAIM, {"A": HIGHER, "B": HIGH, "C": LOW}).verdict is Verdict.NOT_REPRODUCED
    mixed = runs(1, 3, 5, 7, 9)
    assert judge(CLAIM, {"A": mixed, "B": runs(2, 4, 6, 8, 10), "C": HIGHER}).verdict is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_runs_for_the_test_are_undecided_and_print_no_p(n):
    judgement = judge(CLAIM, {"A": LOW[:n], "B": HIGH[:n], "C": HIGHER[:n]})
    assert judgement.verdict is Verdict.UNDECIDED and judgement.p_value is None
    assert "p =" not in judgement.finding and "too few runs" in judgement.finding


def test_runs_of_one_epoch_cannot_say_anything_of_variance():
    stated = Stated(words="A varies less.", claim=LessVariance(row="A", others=("B",), probe="medians"))
    one = [replace(run(seed, loss=[1.0]), unit_values={"medians": np.ones((1, 3))}) for seed in range(5)]
    judgement = judge(stated, {"A": one, "B": one})
    assert judgement.verdict is Verdict.UNDECIDED and judgement.finding == "too few epochs in A, B"
    assert judge(stated, {"A": one, "B": one}, ["1 of 200 epochs"]).verdict is Verdict.REHEARSAL
    copied = [run(seed, loss=[2.0, 1.0]) for seed in range(5)]  # without what the probe saw
    assert judge(stated, {"A": copied, "B": copied}).verdict is Verdict.UNDECIDED


def test_a_row_without_finished_runs_is_not_run():
    judgement = judge(CLAIM, {"A": LOW, "B": [run(status="unfinished", loss=[1.0])]})
    assert judgement.verdict is Verdict.NOT_RUN and "B, C" in judgement.finding


def test_a_rehearsal_is_never_a_verdict():
    assert judge(CLAIM, {"A": LOW, "B": HIGH, "C": HIGHER}, ("1 epoch",)).verdict is Verdict.REHEARSAL


def test_a_diverged_run_counts_as_the_worst_and_not_as_missing():
    diverged = [*LOW[:3], *(run(seed, status="diverged", loss=[0.0]) for seed in (3, 4))]
    judgement = judge(CLAIM, {"A": diverged, "B": HIGH, "C": HIGHER})
    assert judgement.verdict is Verdict.NOT_REPRODUCED and "A inf (n=5)" in judgement.finding


def test_equal_values_are_no_difference():
    same = runs(1, 1, 1, 1, 1)
    assert judge(CLAIM, {"A": same, "B": same, "C": same}).verdict is Verdict.NOT_REPRODUCED


def test_scores_follow_their_definitions():
    one = run(loss=[4.0, 2.0, 1.0], median=[0.5, -0.25, 0.0])
    assert Beats(row="A", others=(), metric="loss").score(one) == 1.0
    assert StaysNearest(row="A", others=(), metric="median").score(one) == 0.25
    assert FallsFastest(row="A", others=(), metric="loss", epochs=2).score(one) == 3.0
    moved = replace(one, unit_values={"medians": np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])})
    assert LessVariance(row="A", others=(), probe="medians").score(moved) == 0.5  # variances 1 and 0
    assert LessVariance(row="A", others=(), probe="medians", of="change").score(moved) == 0.0


@pytest.mark.parametrize(
    "epochs, said", [(1, "loss after the first epoch"), (2, "over the first 2 epochs"), (9, "over the first 3 epochs")]
)
def test_a_mean_over_the_first_epochs_says_of_how_many_it_is(epochs, said):
    stated = Stated(words="A falls fastest.", claim=FallsFastest(row="A", others=("B",), metric="loss", epochs=3))
    finding = judge(stated, {row: [run(loss=[1.0] * epochs)] for row in "AB"}).finding
    assert said in finding


def test_whatever_departs_from_the_paper_is_named():
    study = elu.fig_2_median_activation()
    assert adapt(study) == study
    short = adapt(study, epochs=20, runs=3, data="digits", precision="bf16")
    assert short.rehearsal == ("20 of 300 epochs", "digits instead of mnist", "bf16 instead of float32", "3 of 5 runs")
    assert short.trials["ELU"].data.validation == 240  # a sixth of 1,437, as 10,000 is of 60,000
    assert adapt(study, runs=7).rehearsal == ()
    assert adapt(adapt(study, epochs=20), runs=3) == adapt(study, epochs=20, runs=3)
    with pytest.raises(InputError, match="epochs was adapted to 20 before: adapt the paper's study to 10 instead"):
        adapt(short, epochs=10)


def test_a_recompressed_copy_is_a_rehearsal():
    study = adapt(elu.fig_2_median_activation(), runs=6)
    reasons = rehearsal_reasons(study, {"ELU": 6 * [run(loss=[1.0], dataset="mnist (recompressed)")]})
    assert reasons == ("mnist (recompressed) instead of mnist",)


def test_a_row_of_which_runs_have_not_ended_gets_no_verdict_yet():
    study = elu.fig_2_median_activation()
    done, begun = run(loss=[1.0]), replace(run(loss=[1.0]), status="unfinished")
    assert rehearsal_reasons(study, {"ELU": 5 * [done], "ReLU": 3 * [done] + 2 * [begun]}) == ("3 of 5 runs",)
    assert rehearsal_reasons(study, {"ELU": 5 * [done], "ReLU": [begun]}) == ()  # nothing of it counts
    assert rehearsal_reasons(study, {"ELU": 5 * [done], "ReLU": 5 * [replace(done, status="diverged")]}) == ()
    assert rehearsal_reasons(adapt(study, runs=3), {"ELU": 2 * [done]}) == ("3 of 5 runs", "2 of 3 runs")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"runs": 0}, "runs must be at least 1; got 0"),
        ({"epochs": -1}, "epochs must be at least 1; got -1"),
        ({"epochs": "3"}, "epochs must be a whole number; got '3'"),
        ({"runs": 2.5}, "runs must be a whole number; got 2.5"),
        ({"data": 3}, "data must be a dataset's name or Data; got 3"),
        ({"data": "cifar11"}, "unknown dataset 'cifar11': did you mean 'cifar10'"),
    ],
)
def test_impossible_changes_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        adapt(elu.fig_2_median_activation(), **change)


def test_a_study_that_was_not_called_is_none():
    with pytest.raises(
        InputError, match=r"adapt takes a study, such as elu.fig_2_median_activation\(\); got <function"
    ):
        adapt(elu.fig_2_median_activation, epochs=2)


def test_the_best_epoch_is_the_smallest_error_and_the_largest_accuracy():
    one = run(test_error=[0.5, 0.2, 0.4])
    assert one.at("test_error", "best") == 0.2 and one.at("test_error", "last") == 0.4
    assert one.at("test_accuracy", "best") == 0.8 and one.at("test_accuracy", "last") == 0.6
    assert Beats(row="A", others=(), metric="test_error", epoch="best").score(one) == 0.2
    assert np.isnan(one.at("test_loss", "best"))


def test_a_paired_claim_needs_six_pairs_and_pairs_by_seed():
    claim = Stated(words="A beats B.", claim=Beats(row="A", others=("B",), metric="loss", paired=True))
    # Every pair differs by the same sign, though the rows overlap: a rank-sum test would see nothing.
    better, worse = runs(1, 2, 3, 4, 5, 6), runs(1.1, 2.1, 3.1, 4.1, 5.1, 6.1)
    assert judge(claim, {"A": better, "B": worse}).verdict is Verdict.REPRODUCED
    assert judge(claim, {"A": better, "B": worse[::-1]}).verdict is Verdict.REPRODUCED
    assert judge(claim, {"A": better[:5], "B": worse}).verdict is Verdict.UNDECIDED


def test_who_reaches_a_value_first_counts_never_as_last():
    claim = ReachesFirst(row="A", others=("B",), metric="error", value=0.2)
    assert claim.score(run(error=[0.9, 0.2, 0.1])) == 2 and claim.score(run(error=[0.9, 0.3])) == np.inf
    fast = [run(seed, error=[0.5, 0.1, 0.1]) for seed in range(5)]
    never = [run(seed, error=[0.5, 0.4, 0.3]) for seed in range(5)]
    stated = Stated(words="A is first.", claim=claim)
    assert judge(stated, {"A": fast, "B": never}).verdict is Verdict.REPRODUCED
    assert judge(stated, {"A": never, "B": never}).verdict is Verdict.NOT_REPRODUCED


def test_two_rows_are_near_only_where_the_runs_say_so():
    stated = Stated(words="A is as good as B.", claim=Near(row="A", other="B", metric="loss", margin=0.5))
    near = {"A": runs(1.0, 1.1, 0.9, 1.05, 0.95), "B": runs(1.02, 1.12, 0.92, 1.07, 0.97)}
    assert judge(stated, near).verdict is Verdict.REPRODUCED
    wide = {"A": runs(0.0, 2.0, 1.0, 3.0, -1.0), "B": runs(1.0, 1.1, 0.9, 1.05, 0.95)}
    assert judge(stated, wide).verdict is Verdict.UNDECIDED  # equal means would not do either with such a spread
    far = {"A": runs(2.0, 2.1, 1.9, 2.05, 1.95), "B": runs(1.0, 1.1, 0.9, 1.05, 0.95)}
    assert judge(stated, far).verdict is Verdict.NOT_REPRODUCED and judge(stated, far).as_claimed is False
    scattered = {"A": runs(10.0, 12.0, 11.0, 13.0, 9.0), "B": wide["B"]}
    assert judge(stated, scattered).verdict is Verdict.NOT_REPRODUCED  # however much it scatters, it is elsewhere
    assert judge(stated, {"A": runs(1.0), "B": runs(1.0)}).verdict is Verdict.UNDECIDED
    failing = {**near, "B": [*near["B"][:4], run(4, "diverged", loss=[1.0])]}
    assert judge(stated, failing).verdict is Verdict.NOT_REPRODUCED


def test_a_mean_is_below_a_published_number_only_where_chance_does_not_explain_it():
    stated = Stated(words="A is better than what was published.", claim=Below(row="A", metric="loss", value=1.0))
    judged = judge(stated, {"A": runs(0.9, 0.95, 0.85)})  # t = −0.1 / (0.05 / √3), two degrees of freedom
    t = 0.1 / (0.05 / 3**0.5)
    assert judged.verdict is Verdict.NOT_REPRODUCED and judged.as_claimed
    assert judged.p_value == pytest.approx(1 - t / (2 + t**2) ** 0.5)
    assert judge(stated, {"A": runs(0.9, 0.91, 0.92)}).verdict is Verdict.REPRODUCED
    assert judge(stated, {"A": runs(1.1, 1.11, 1.12)}).verdict is Verdict.NOT_REPRODUCED
    assert judge(stated, {"A": runs(0.9)}).verdict is Verdict.UNDECIDED
    failing = [run(0, loss=[0.9]), run(1, "diverged", loss=[0.9])]
    assert judge(stated, {"A": failing}).verdict is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("last", [run(9, "diverged", loss=[9.0]), run(9, loss=[20.0])])
def test_one_bad_run_of_the_others_does_not_turn_the_direction(paired, last):
    stated = Stated(words="A beats B.", claim=Beats(row="A", others=("B",), metric="loss", paired=paired))
    worse = [run(seed, loss=[0.3 + seed / 1000]) for seed in range(10)]
    better = [*(run(seed, loss=[0.2 + seed / 1000]) for seed in range(9)), last]
    judged = judge(stated, {"A": worse, "B": better})
    assert judged.verdict is Verdict.NOT_REPRODUCED and "not as claimed by ranks" in judged.finding
    judged = judge(stated, {"A": better, "B": worse})  # and does not hide that nine of ten are ahead
    assert judged.as_claimed and judged.p_value == pytest.approx(94 / 1024 if paired else 278 / 184_756)


def test_a_row_that_is_claimed_to_diverge():
    stated = Stated(words="It explodes.", claim=Diverges(row="A", metric="loss", never_below=2.0))
    diverged = [run(seed, "diverged", loss=[9.0]) for seed in range(4)]
    assert judge(stated, {"A": [*diverged, run(4, loss=[2.3, 2.3])]}).verdict is Verdict.REPRODUCED
    assert judge(stated, {"A": diverged}).verdict is Verdict.UNDECIDED  # 1/16 is above the level
    assert judge(stated, {"A": runs(1, 1, 1, 1, 1)}).verdict is Verdict.NOT_REPRODUCED
    late = [run(seed, "diverged", loss=[2.3, 0.1]) for seed in range(5)]  # it had learnt by then
    assert judge(stated, {"A": late}).verdict is Verdict.NOT_REPRODUCED
    learns = Stated(words="It learns.", claim=Learns(row="A", metric="loss", below=2.0))
    assert judge(learns, {"A": runs(1, 1, 1, 1, 1)}).verdict is Verdict.REPRODUCED
    assert judge(learns, {"A": late}).verdict is Verdict.NOT_REPRODUCED
    unmeasured = [run(seed, error=[0.1]) for seed in range(5)]  # runs that have no loss did not fail
    assert judge(stated, {"A": unmeasured}).verdict is Verdict.UNDECIDED


def test_a_study_that_speaks_of_an_unknown_row_is_refused():
    study = elu.fig_2_median_activation()
    claim = Stated(words="ELU beats it.", claim=Beats(row="ELU", others=("PReLU",), metric="test_error"))
    with pytest.raises(InputError, match="unknown row 'PReLU'"):
        replace(study, claims=(claim,))
    with pytest.raises(InputError, match="unknown precision 'fp16'"):
        adapt(study, precision="fp16")
    fixed = replace(study.trials["ELU"], model=FixedPrecision())
    plain = replace(study, trials={**study.trials, "ELU": fixed})
    with pytest.raises(InputError, match=r"bf16 needs a network with a field dtype .* FixedPrecision has none"):
        adapt(plain, precision="bf16")


def test_a_gap_that_widens_is_judged_by_the_differences_of_each_seed():
    narrow, wide = (Beats(row=f"A, {depth}", others=(f"B, {depth}",), metric="loss") for depth in (20, 110))
    claim = Widens(narrow=narrow, wide=wide)
    for other in (replace(wide, metric="error"), replace(wide, others=("B, 110", "C, 110"))):
        with pytest.raises(InputError, match="two leads over one row each"):
            Widens(narrow=narrow, wide=other)
    stated = Stated(words="The gap grows.", claim=claim)
    level, small = [1.0, 2.0, 3.0, 4.0, 5.0], [0.1, 0.2, 0.15, 0.12, 0.18]  # seeds differ by more than the gaps do
    rows = {"A, 20": runs(*level), "B, 20": runs(*np.add(level, small)), "A, 110": runs(*level)}
    wide = {**rows, "B, 110": runs(*np.add(level, 0.5))}
    judged = judge(stated, wide)
    assert judged.verdict is Verdict.REPRODUCED and judged.p_value == pytest.approx(2 / 252)
    assert "B, 20 less A, 20 0.15 (n=5), B, 110 less A, 110 0.5 (n=5); as claimed" in judged.finding
    assert judge(stated, {**rows, "B, 110": runs(*level)}).verdict is Verdict.NOT_REPRODUCED
    assert judge(stated, {**wide, "B, 110": runs(9.0)}).verdict is Verdict.UNDECIDED
    assert judge(stated, {**wide, "B, 110": []}).verdict is Verdict.NOT_RUN
    diverged = {**wide, "B, 110": [run(seed, "diverged", loss=[1.0]) for seed in range(5)]}
    assert judge(stated, diverged).verdict is Verdict.REPRODUCED


def test_a_deficit_that_shrinks_is_no_lead_that_grows():
    narrow, wide = (Beats(row=f"A, {depth}", others=(f"B, {depth}",), metric="loss") for depth in (20, 110))
    level = np.arange(1.0, 6.0)
    rows = {"A, 20": runs(*level), "B, 20": runs(*level - 0.5), "A, 110": runs(*level), "B, 110": runs(*level - 0.1)}
    claim = Widens(narrow=narrow, wide=wide)
    judged = judge(Stated(words="The gap grows.", claim=claim), rows)
    assert judged.verdict is Verdict.NOT_REPRODUCED and judged.as_claimed is False
    shrinks = Stated(words="It degrades less.", claim=replace(claim, ahead=False))
    assert judge(shrinks, rows).verdict is Verdict.REPRODUCED


def test_equal_gaps_are_ties_whatever_the_floats_say():
    narrow, wide = (Beats(row=f"A, {depth}", others=(f"B, {depth}",), metric="error") for depth in (20, 110))
    stated = Stated(words="The gap grows.", claim=Widens(narrow=narrow, wide=wide))

    def errors(*of_ten_thousand: int) -> list[RunResult]:
        return [run(seed, error=[error / 10_000]) for seed, error in enumerate(of_ten_thousand)]

    rows = {
        "A, 20": errors(828, 821, 832, 829, 848),
        "B, 20": errors(832, 823, 835, 831, 852),  # by 4, 2, 3, 2, 4
        "A, 110": errors(572, 574, 590, 595, 588),
        "B, 110": errors(576, 582, 594, 599, 592),  # by 4, 8, 4, 4, 4
    }
    assert judge(stated, rows).p_value == pytest.approx(rank_sum([4, 2, 3, 2, 4], [4, 8, 4, 4, 4]))


def test_a_row_is_ahead_by_as_much_as_the_claim_says():
    stated = Stated(words="A is affected.", claim=Beats(row="B", others=("A",), metric="loss", by=0.5))
    barely, much = {"A": runs(1.1, 1.2, 1.3, 1.4, 1.5)}, {"A": runs(1.6, 1.7, 1.8, 1.9, 2.0)}
    without = {"B": runs(1.0, 1.01, 1.02, 1.03, 1.04)}
    assert judge(stated, barely | without).verdict is Verdict.NOT_REPRODUCED
    judged = judge(stated, much | without)
    assert judged.verdict is Verdict.REPRODUCED and "more than 0.5 apart" in judged.finding
    paired = Stated(words="A is affected.", claim=Beats(row="B", others=("A",), metric="loss", by=0.5, paired=True))
    assert not judge(paired, barely | without).as_claimed and judge(paired, much | without).as_claimed


def test_numbers_without_chance_are_compared_as_they_are():
    steeper = Stated(words="B is steeper.", claim=Beats(row="A", others=("B",), metric="slope", exact=True))
    assert judge(steeper, {"A": [run(slope=[0.5])], "B": [run(slope=[0.7])]}).verdict is Verdict.REPRODUCED
    judged = judge(steeper, {"A": [run(slope=[0.7])], "B": [run(slope=[0.5])]})
    assert judged.verdict is Verdict.NOT_REPRODUCED and judged.p_value is None
    assert judged.finding == "slope: A 0.7 (n=1), B 0.5 (n=1); not as claimed, no chance in it"
    small = Stated(words="A is small.", claim=Below(row="A", metric="slope", value=0.6, exact=True))
    assert judge(small, {"A": [run(slope=[0.5])]}).verdict is Verdict.REPRODUCED
    assert judge(small, {"A": [run(slope=[0.6])]}).verdict is Verdict.NOT_REPRODUCED


def test_a_claim_about_runs_that_learnt_is_not_held_up_by_those_that_did_not():
    claim = Beats(row="A", others=("B",), metric="loss")
    diverged = [run(seed, "diverged", loss=[9.0]) for seed in range(5)]
    rows = {"A": runs(0.1, 0.2, 0.3, 0.4, 0.5), "B": diverged}
    assert judge(Stated(words="B is worse.", claim=claim), rows).verdict is Verdict.REPRODUCED
    stated = Stated(words="B learns, but worse.", claim=replace(claim, diverged="left out"))
    judged = judge(stated, rows)
    assert judged.verdict is Verdict.UNDECIDED and judged.finding == "all runs diverged in B"
    learnt = rows | {"B": [*diverged[:1], *(run(seed, loss=[1.0 + seed]) for seed in range(1, 6))]}
    judged = judge(stated, learnt)
    assert judged.verdict is Verdict.REPRODUCED and "B 4 (n=5)" in judged.finding


def test_a_row_that_beats_one_of_the_others_only_does_not_beat_them_all():
    judged = judge(CLAIM, {"A": HIGH, "B": HIGHER, "C": LOW})
    assert judged.verdict is Verdict.NOT_REPRODUCED and judged.as_claimed is False
    paired = replace(CLAIM, claim=replace(CLAIM.claim, paired=True))
    rows = {"A": runs(6, 7, 8, 9, 10, 11, 12), "B": runs(*range(20, 27)), "C": runs(*range(-4, 3))}
    judged = judge(paired, rows)
    assert judged.verdict is Verdict.NOT_REPRODUCED and judged.as_claimed is False


def test_what_a_test_can_reach_is_corrected_for_the_number_of_rows_and_the_least_row_decides():
    """Four runs against four reach 2 / 70, of two comparisons 4 / 70 = 0.057: no numbers could support the claim."""
    four = {"A": LOW[:4], "B": HIGH[:4], "C": HIGHER[:4]}
    assert judge(CLAIM, four).verdict is Verdict.UNDECIDED
    assert judge(replace(CLAIM, claim=replace(CLAIM.claim, others=("B",))), four).verdict is Verdict.REPRODUCED
    assert judge(CLAIM, {"A": LOW, "B": HIGH, "C": HIGHER[:1]}).verdict is Verdict.UNDECIDED


def test_a_row_that_unlearns_what_it_had_learnt_did_not_fail_from_the_start():
    """The metric is never below the bound, not only after the last epoch."""
    forgot = [run(seed, loss=[2.3, 0.1, 2.3]) for seed in range(5)]
    stated = Stated(words="It explodes.", claim=Diverges(row="A", metric="loss", never_below=2.0))
    judged = judge(stated, {"A": forgot})
    assert judged.verdict is Verdict.NOT_REPRODUCED and judged.as_claimed is False


@pytest.mark.parametrize("count, p_value", [(5, 1 / 32), (4, 6 / 32), (3, 16 / 32), (0, 1)])
def test_most_of_the_runs_means_more_than_half_by_the_binomial_distribution(count, p_value):
    """Tails of B(5, 1/2) from Pascal's triangle: 1, 5, 10, 10, 5, 1 of 32."""
    learns = Stated(words="It learns.", claim=Learns(row="A", metric="loss", below=2.0))
    judged = judge(learns, {"A": runs(*[1] * count, *[3] * (5 - count))})
    assert judged.p_value == p_value and judged.as_claimed is (count > 2.5)
    assert judged.verdict is (Verdict.REPRODUCED if count == 5 else Verdict.NOT_REPRODUCED)
    assert judge(learns, {"A": runs(1, 1, 3, 3)}).as_claimed is False  # two of four are not most


def test_the_distance_from_a_target_is_measured_from_the_target():
    assert StaysNearest(row="A", others=(), metric="median", target=1.0).score(run(median=[1.5, 0.0, 1.0])) == 0.5


def test_a_lead_that_grows_is_a_lead_at_the_end_and_in_the_median():
    narrow, wide = (Beats(row=f"A, {depth}", others=(f"B, {depth}",), metric="loss") for depth in (20, 110))
    stated = Stated(words="The gap grows.", claim=Widens(narrow=narrow, wide=wide))
    level = np.arange(1.0, 6.0)

    def gaps(before, after):
        return {
            "A, 20": runs(*level),
            "B, 20": runs(*level + before),
            "A, 110": runs(*level),
            "B, 110": runs(*level + after),
        }

    assert judge(stated, gaps(-0.5, 0.5)).verdict is Verdict.REPRODUCED  # from behind to ahead
    # One seed far ahead does not make up for four that are behind, or level.
    for after in ([-0.1, -0.1, -0.1, -0.1, 9.0], [0.0, 0.0, 0.0, 0.1, 0.1]):
        judged = judge(stated, gaps(-0.5, np.array(after)))
        assert judged.verdict is Verdict.NOT_REPRODUCED and judged.as_claimed is False


def test_no_test_decides_on_nearness_where_runs_scatter_too_much_for_equal_means():
    """Welch on ± 0.03 around equal means, n = 3 each: t = margin / (s √(2/3)) on 4 degrees of freedom."""
    stated = Stated(words="A is as good as B.", claim=Near(row="A", other="B", metric="loss", margin=0.5))
    scatter = 0.35
    rows = {"A": runs(1 - scatter, 1, 1 + scatter), "B": runs(1.1 - scatter, 1.1, 1.1 + scatter)}
    t = 0.5 / (scatter * (2 / 3) ** 0.5)
    assert 1.5 < t < 2.132 < 2 * t  # the one-sided 5 % point of Student's t with 4 degrees of freedom
    assert judge(stated, rows).verdict is Verdict.UNDECIDED


def test_runs_that_diverge_before_their_first_epoch_ends_count_as_diverged():
    stated = Stated(words="It explodes.", claim=Diverges(row="A", metric="loss", never_below=2.0))
    at_once = [RunResult(trial_id="t", seed=seed, status="diverged", diverged_at_step=3) for seed in range(5)]
    assert judge(stated, {"A": at_once}).verdict is Verdict.REPRODUCED
