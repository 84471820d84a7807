import html
import inspect
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import renew_readme
from rich.console import Console

from experiments import elu
from relujax import figures, records, report, tables
from relujax.claims import Beats, Stated, Verdict
from relujax.results import overview, results_table
from relujax.study import Bars, ByDepth, Curves, Distribution, Profile, Reported
from relujax.trial import RunResult, describe

HOSTILE = 'ELU <script>alert("x")</script> | 100 % & $\\_'


def fabricated(name, seed, status="done", epochs=6):
    """A run with curves that differ by seed."""
    rng = np.random.default_rng([seed, len(name)])
    falling = np.exp(-np.arange(epochs) / 3) + 0.01 * rng.random(epochs)
    metrics = ("train_loss", "validation_loss", "validation_error", "test_error", "median_activation", "seconds")
    history = tuple({"epoch": e + 1, **{metric: float(falling[e]) for metric in metrics}} for e in range(epochs))
    units = rng.normal(size=(epochs, 20)) * np.r_[np.zeros(5), np.ones(15)]
    environment = {"dataset": "mnist", "device": "CPU", "jax": "0.10.2", "dataset_digest": "d" * 8}
    return RunResult(
        trial_id="t",
        seed=seed,
        status=status,
        diverged_at_step=123 if status == "diverged" else None,
        history=history,
        unit_values={"unit_medians": units},
        environment=environment,
    )


@pytest.fixture
def study():
    study = elu.fig_2_median_activation()
    trials = {**study.trials, HOSTILE: study.trials["ELU"]}
    claims = (*study.claims, Stated(words=HOSTILE, claim=Beats(row=HOSTILE, others=("ReLU",), metric="train_loss")))
    panels = (*study.panels, Distribution(probe="unit_medians", of="value", label="variance"))
    return replace(study, trials=trials, claims=claims, panels=panels)


@pytest.fixture
def results(study):
    four_of_five = [fabricated("ReLU", seed, "diverged" if seed == 2 else "done") for seed in range(5)]
    return {label: [fabricated(label, seed) for seed in range(5)] for label in study.trials} | {"ReLU": four_of_five}


def test_the_table_has_every_row_with_mean_std_and_count(study, results):
    lines = tables.table(study, results, "text").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["ReLU", "LReLU", "ELU", "ELU"]
    assert lines[2].endswith("4/5  1 (step 123)") and lines[3].endswith("5/5  –")
    errors = [100 * run.last("test_error") for run in results["ELU"]]
    assert f"{np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f}" in lines[4]


def test_the_papers_number_stands_beside_ours_and_a_row_without_runs_or_number_is_empty(study, results):
    study = replace(study, reported={"ELU": Reported(28.75, 0.24)})
    header, *lines = [re.split(r"\s{2,}", line) for line in tables.table(study, results, "text").splitlines()]
    ours = f"{np.mean([run.last('median_activation') for run in results['ELU']]) - 28.75:+.3g}"
    assert header[1:5] == ["median activation", "paper", "difference", "agreement"]
    assert lines[3][2:4] == ["28.75 ± 0.24", ours] and lines[3][4].startswith("differs (p = ")
    survivors = replace(study, reported={"ReLU": Reported(results["ReLU"][0].last("median_activation"))})
    shown = tables.table(survivors, results, "text").splitlines()[2]
    assert "1 diverged" in shown and "agrees" not in shown  # four of five that did not cannot agree for the row
    one = tables.table(study, {"ReLU": results["ReLU"][:1]}, "text").splitlines()
    assert "±" not in one[2] and one[2].endswith("1/5")
    assert one[3].split()[1:] == ["–"] * 6 + ["0/5"]  # no difference, no agreement and no divergence to speak of
    assert "28.75 ± 0.24" in one[4]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_terminal_cuts_no_cell(study, results, width):
    study = replace(study, reported={"ELU": Reported(28.75, 0.24)})
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tables.grid(*tables.table_cells(study, results), width=width))
    shown = console.export_text()
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    assert all(
        word in shown for column in tables.table_cells(study, results)[1] for word in " ".join(column[1:]).split()
    )


def test_names_are_escaped_in_markdown_latex_and_html(study, results, tmp_path, monkeypatch):
    row = tables.table(study, results, "markdown").splitlines()[-1]
    assert "<script>" not in row and r"\|" in row and "&amp;" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 9  # eight columns
    latex = tables.table(study, results, "latex")
    assert r"100 \% \& \$\textbackslash{}\_" in latex
    monkeypatch.setattr(records, "read_results", lambda *args: results)
    page = report.write({"fig": study}, tmp_path).read_text()
    assert page.count("<script") == 1 and "&lt;script&gt;" in page  # the page's own


def test_the_page_is_self_contained_and_says_what_a_reader_needs(study, results, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "read_results", lambda *args: results)
    note = inspect.getdoc(elu.fig_2_median_activation)
    path = report.write({"fig": study}, tmp_path, notes={"fig": note})
    page = path.read_text()
    assert '3 × <span class="verdict not-reproduced">not reproduced</span>' in page.partition("<section")[0]
    assert '<p class="text quiet">About half an hour on 2 CPU cores.</p>' in page and "Mean over runs" in page
    assert "<li>ReLU, seed 2 diverged at step 123</li>" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#)|@import|url\((?!#)""", page)
    assert "<svg" in page and html.escape(study.question, quote=True).replace("&#x27;", "&#39;") in page
    assert "initializers is meant is not stated" in page  # the network's deviation
    assert "the first 10,000 training images" in page  # the probe's deviation
    assert {file.name for file in (tmp_path / "report").iterdir()} == {
        f"fig.{end}" for end in ("svg", "png", "md", "tex")
    }


def test_runs_on_different_devices_are_pointed_out(study, results, tmp_path, monkeypatch):
    results["ELU"][0] = replace(results["ELU"][0], environment={**results["ELU"][0].environment, "device": "H200"})
    monkeypatch.setattr(records, "read_results", lambda *args: results)
    assert "The runs differ in device: CPU, H200." in report.write({"fig": study}, tmp_path).read_text()


def test_the_same_results_give_the_same_figure(study, results):
    first, second = (figures.render(figures.draw(study, results), "svg") for _ in range(2))
    assert first == second and b"<svg" in first


def test_figures_in_one_page_share_no_id_and_follow_its_colours(study, results):
    svg = figures.render(figures.draw(study, results), "svg")
    first, second = (ElementTree.fromstring(figures.inline(svg, prefix)) for prefix in ("a", "b"))
    own, other = ([element.get("id") for element in root.iter() if element.get("id")] for root in (first, second))
    assert own and len(set(own)) == len(own) and not set(own) & set(other)
    text = ElementTree.tostring(first, "unicode")
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) == set(own)
    assert "currentColor" in text and "#000000" not in text and "fill: #ffffff" not in text
    assert len(figures.inline(svg, "a")) < 0.7 * len(svg)


def test_a_figure_is_drawn_of_whatever_is_there(study):
    figures.render(figures.draw(study, {"ReLU": [fabricated("r", 0)], "ELU": []}), "png")
    sixteen = {f"row {n}": [fabricated("r", n)] for n in range(16)}
    drawn = figures.draw(replace(study, panels=(Curves(metrics=("train_loss",), label="loss", log=True),)), sixteen)
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn.axes[0].get_lines()}) == 16


def test_rows_of_one_kind_have_one_colour_in_all_panels_and_variants_another_style():
    labels = ("ELU, 20", "ReLU, 20", "ELU, 56", "ReLU, 56", "ReLU + BN, 56")
    looks = figures._looks(labels[2:], labels)
    assert looks["ELU, 56"] == figures._looks(labels[:2], labels)["ELU, 20"]
    assert looks["ELU, 56"][0] != looks["ReLU, 56"][0] == looks["ReLU + BN, 56"][0]
    assert looks["ELU, 56"][1] == looks["ReLU, 56"][1] != looks["ReLU + BN, 56"][1]
    assert len(set(figures._looks(labels, labels, styled=False).values())) == 5  # the style says which metric it is


def test_a_name_leaves_out_what_all_rows_share_and_the_panel_says():
    rows = ("ELU, 20", "ELU, 20, lr 0.01")
    assert figures._names(rows, "loss, 20 layers") == {"ELU, 20": "ELU", "ELU, 20, lr 0.01": "ELU, lr 0.01"}
    assert figures._names(rows, "loss, 200 layers") == dict(zip(rows, rows))
    assert figures._names(("ELU", "ReLU"), "ELU and ReLU") == {"ELU": "ELU", "ReLU": "ReLU"}


def test_the_picture_of_a_rehearsal_says_so(study, results):
    assert figures.draw(study, results).get_suptitle() == ""
    shortened = replace(study, rehearsal=("6 of 300 epochs", "2 of 5 runs"))
    assert figures.draw(shortened, results).get_suptitle() == "Rehearsal: 6 of 300 epochs; 2 of 5 runs"


def test_a_figure_names_diverged_runs(study, results):
    results = results | {"LReLU": [fabricated("LReLU", seed, "diverged") for seed in range(5)]}
    drawn = figures.draw(replace(study, panels=study.panels[:1]), results)
    names = [text.get_text() for legend in drawn.subfigs[0].legends for text in legend.get_texts()]
    assert names[:3] == ["ReLU (1 of 5 diverged)", "LReLU (5 of 5 diverged)", "ELU"]


def test_bars_start_at_zero_and_shares_are_points_beside_the_papers(study, results):
    bars = (Bars(metric="test_error", label="test error"), Bars(metric="train_loss", label="loss"))
    study = replace(study, panels=bars, metrics=("test_error", "train_loss"), reported={"ELU": Reported(4.0, 0.1)})
    shares, losses = figures.draw(study, results).axes
    assert not shares.patches and shares.get_xticklabels()[0].get_text() == "ReLU (1 of 5 diverged)"
    assert len(losses.patches) == 4 and losses.get_ylim()[0] == 0


def test_what_is_drawn_is_mean_and_spread_of_the_runs_that_ended(study, results):
    panels = (
        Curves(metrics=("test_error",), label="test error"),
        Bars(metric="train_loss", label="loss"),
        ByDepth(metric="test_error", label="test error", series={"ours": {20: "ReLU", 32: "not run", 56: "ELU"}}),
        Profile(metrics=("train_loss", "validation_loss"), label="losses", horizontal="part"),
        Distribution(probe="unit_medians", of="value", label="variance"),
    )
    metrics = ("test_error", "train_loss", "validation_loss")
    study = replace(study, panels=panels, metrics=metrics, reported={"ELU": Reported(4.0)})
    curves, bars, depths, profile, distribution = figures.draw(study, results).axes
    ended = [run for run in results["ReLU"] if run.status == "done"]
    assert len(ended) == 4
    errors = 100 * np.array([[epoch["test_error"] for epoch in run.history] for run in ended])
    middle, spread = errors.mean(0), errors.std(0, ddof=1)
    np.testing.assert_allclose(curves.get_lines()[0].get_ydata(), middle)
    edges = curves.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx((middle + spread).max()) and edges.min() == pytest.approx(
        (middle - spread).min()
    )
    losses = [run.history[-1]["train_loss"] for run in ended]
    assert bars.patches[0].get_height() == pytest.approx(np.mean(losses))
    ours, paper = (container.lines[0] for container in depths.containers), depths.get_lines()[-1]
    elu_errors = [100 * run.history[-1]["test_error"] for run in results["ELU"]]
    broken = [[20, errors[:, -1].mean()], [32, np.nan], [56, np.mean(elu_errors)]]
    np.testing.assert_allclose(next(ours).get_xydata(), broken)
    np.testing.assert_array_equal(paper.get_xydata(), [[56, 4.0]])
    assert profile.containers[0].lines[0].get_ydata()[0] == pytest.approx(np.mean(losses))
    variances = np.concatenate([run.unit_values["unit_medians"].var(0, ddof=1) for run in ended])
    x, share = distribution.get_lines()[0].get_data()
    np.testing.assert_allclose(x, np.sort(variances[variances > 0]))
    np.testing.assert_allclose(share, np.arange(21, 81) / 80)  # a quarter of the units never move


def test_a_panel_without_anything_to_show_says_so(study):
    drawn = figures.draw(study, {"ELU": [fabricated("ELU", 0, epochs=1)]})
    assert [axes.texts[0].get_text() for axes in drawn.axes if axes.texts] == ["nothing to show yet"]


def test_a_record_is_json_and_holds_every_run(study, results, tmp_path):
    path = report.write_record(study, "fig", results, tmp_path)
    found = json.loads(path.read_text())
    assert list(found["rows"]) == list(study.trials)
    first = found["rows"]["ELU"]["runs"][0]
    assert found["rows"]["ELU"]["trial"] == json.loads(json.dumps(describe(study.trials["ELU"])))
    assert first["curves"]["train_loss"][-1] == pytest.approx(results["ELU"][0].last("train_loss"), rel=1e-4)
    assert first["environment"]["dataset"] == "mnist"
    assert [claim["verdict"] for claim in found["claims"]]
    assert (tmp_path / "fig.svg").exists()


def test_the_overview_says_what_a_record_holds(tmp_path):
    def runs(*seconds, device="A"):
        return {
            "runs": [
                {"seed": 0, "status": "done", "epochs": 2, "curves": {"seconds": s}, "environment": {"device": device}}
                for s in seconds
            ]
        }

    claims = [
        {"verdict": verdict, "as_claimed": True} for verdict in ("reproduced", "undecided", "not reproduced", "not run")
    ]
    found = {
        "study": "s",
        "source": "Paper, Fig. 1",
        "rehearsal": [],
        "table": [
            ["", "error (%)", "paper", "n"],
            *([f"row {i}", f"{i}.00 ± 0.10", "9.5", "2/2"] for i in range(1, 7)),
        ],
        "claims": claims,
        "rows": {"row 1": runs([1800.0, 1800.0], [1800.0]), "row 2": runs([900.0, 900.0], device="B")},
    }
    records.write_json(tmp_path / "results" / "s.json", found)
    study = replace(elu.fig_2_median_activation(), rehearsal=("a shortened one",))
    assert overview(tmp_path, "results", {"s": study}).splitlines()[2] == (
        "| [Paper, Fig. 1](results/s.json) (another version of the study) | error (%): row 1 1.00 ± 0.10; "
        "row 2 2.00 ± 0.10; row 3 3.00 ± 0.10; row 4 4.00 ± 0.10; … | row 1 9.5; row 2 9.5; row 3 9.5; row 4 9.5 | 2/2 "
        "| 1 of 3 claims reproduced, 1 not run | A, B, 2.0 |"
    )
    records.write_json(tmp_path / "results" / "s.json", found | {"rehearsal": ["1 of 2 epochs"]})
    assert "| rehearsal (1 of 2 epochs): 3 of 3 as claimed |" in overview(tmp_path, "results", {"s": study})


def test_the_readmes_show_the_recorded_results():
    for path, parts in renew_readme.tables().items():
        for marker, table in parts.items():
            assert renew_readme.between(path.read_text(), marker) == table, f"{path}: python tests/renew_readme.py"


def test_a_record_of_another_version_is_shown_as_such(study, results, tmp_path):
    report.write_record(study, "fig", results, tmp_path)
    assert "another version" not in results_table(tmp_path, {"fig": study})
    trial = study.trials["ELU"]
    changed = replace(trial, recipe=replace(trial.recipe, batch_size=32))
    assert "(another version of the study)" in results_table(
        tmp_path, {"fig": replace(study, trials=study.trials | {"ELU": changed})}
    )
    assert "(a study that is gone)" in results_table(tmp_path, {})


def test_where_the_paper_prints_the_best_epoch_it_is_compared_with_our_best(study):
    """The best epoch is the second here: 20 %, and 40 % after the last."""
    history = tuple({"epoch": e + 1, "test_error": error} for e, error in enumerate((0.5, 0.2, 0.4)))
    runs = [replace(fabricated("ELU", seed), history=history) for seed in range(5)]
    study = replace(study, epoch="best", metrics=("test_error",), panels=(), reported={"ELU": Reported(21.0)})
    header, rows = tables.table_cells(study, {"ELU": runs})
    cells = dict(zip(header, next(row for row in rows if row[0] == "ELU")))
    assert (
        cells["test error (%), best epoch"] == "20.00 ± 0.00" and cells["test error (%), last epoch"] == "40.00 ± 0.00"
    )
    assert cells["difference"] == "-1.00"


def test_a_record_holds_what_was_measured_once_without_the_epochs_in_between(study, results, tmp_path):
    """NaN is no JSON: other programs could not read the record."""
    history = tuple({"epoch": e, "train_loss": 1.0, **({"test_error": 0.25} if e == 6 else {})} for e in range(1, 7))
    results = {**results, "ELU": [replace(run, history=history) for run in results["ELU"]]}
    content = report.write_record(study, "fig", results, tmp_path).read_text()
    found = json.loads(content, parse_constant=lambda name: pytest.fail(name))
    curves = found["rows"]["ELU"]["runs"][0]["curves"]
    assert curves["test_error"] == [0.25] and len(curves["train_loss"]) == 6


def test_no_report_gives_a_verdict_on_a_rehearsal(study, results):
    short = replace(study, rehearsal=("6 of 300 epochs",))
    assert {judgement.verdict for judgement in tables.judgements(short, results)} == {Verdict.REHEARSAL}
    assert "**rehearsal**" in tables.markdown(short, results) and "reproduced" not in tables.markdown(short, results)
