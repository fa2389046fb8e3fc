"""A table of scores saves, loads, joins, summarises and reads the same everywhere."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bratskit.evaluate import Estimate, Score, Scores, score_masks, write_summary
from bratskit.labels import REGIONS


def row(case: str, value: float, **columns: object) -> Score:
    """Return one WT row whose Dice is `value` and whose HD95 is ten times what is missing."""
    given = Score(
        method="network", case=case, kind="region", name="WT", dice=value, hd95_mm=10 * (1 - value),
        sensitivity=1.0, precision=1.0, pred_ml=1.0, truth_ml=1.0, pred_empty=False,
        truth_empty=False, empty_rule="brats",
    )  # fmt: skip
    return replace(given, **columns)


# By hand: the summary


def test_mean_median_and_counts_are_those_of_the_column():
    scores = Scores([row("A", 0.5), row("B", 0.6, truth_empty=True), row("C", 1.0)])
    (found,) = scores.summary()
    assert (found.dice.mean, found.dice.median, found.dice.n) == pytest.approx((0.7, 0.6, 3))
    assert found.hd95_mm.mean == pytest.approx(3.0)
    assert (found.n_cases, found.n_empty_truth, found.n_empty_pred) == (3, 1, 0)
    assert (found.best_case, found.worst_case) == ("C", "A")


def test_nan_rows_leave_the_mean_but_stay_in_the_count():
    (found,) = Scores([row("A", 0.5), row("B", math.nan), row("C", 0.7)]).summary()
    assert (found.dice.mean, found.dice.n, found.n_cases) == (pytest.approx(0.6), 2, 3)


def test_equal_dices_are_ranked_by_distance():
    (found,) = Scores([row("A", 0.5, hd95_mm=3.0), row("B", 0.5, hd95_mm=9.0)]).summary()
    assert (found.best_case, found.worst_case) == ("A", "B")


def test_regions_labels_methods_and_rules_are_summarised_apart():
    rows = [row("A", 0.5), row("A", 0.6, method="other"), row("A", 0.7, empty_rule="nan")]
    rows += [row("A", 0.8, name="ET"), row("A", 0.9, name="ET", kind="label")]
    means = [item.dice.mean for item in Scores(rows).summary()]
    assert sorted(means) == [0.5, 0.6, 0.7, 0.8, 0.9]


def test_no_interval_is_claimed_for_one_patient_and_nothing_for_none():
    one = Estimate.over_patients([0.5, 0.7], ["A", "A"])
    assert one.mean == 0.6
    assert math.isnan(one.low)
    assert Estimate.over_patients([math.nan], ["A"]).n == 0


# Property: the interval


def test_the_interval_is_repeatable_holds_the_mean_and_stays_inside_the_data(rng):
    values = rng.uniform(0.3, 0.9, size=12)
    names = [str(number) for number in range(12)]
    once, again = (Estimate.over_patients(values, names, seed=3) for _ in range(2))
    assert once == again != Estimate.over_patients(values, names, seed=4)
    assert values.min() < once.low < once.mean < once.high < values.max()


def test_the_interval_is_about_two_standard_errors_either_side(rng):
    values = rng.normal(size=200)
    found = Estimate.over_patients(values, [str(number) for number in range(200)])
    error = values.std() / math.sqrt(200)
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_scans_of_one_patient_are_drawn_together():
    values, patients = [0.0, 1.0] * 8, [str(number // 2) for number in range(16)]
    together = Estimate.over_patients(values, patients)
    assert together.low == together.high == 0.5  # each patient's mean is 0.5, so nothing varies
    scores = Scores(row(f"P{number // 2}-{number % 2}", values[number]) for number in range(16))
    (found,) = scores.summary(patient_of=lambda case: case.split("-")[0])
    assert found.dice.low == 0.5
    assert scores.summary()[0].dice.low < 0.5  # ids that are no BraTS ids stand for themselves


def test_two_time_points_of_a_brats_patient_are_one_patient():
    scores = Scores([row("BraTS-GLI-00001-000", 0.2), row("BraTS-GLI-00001-001", 0.4)])
    assert math.isnan(scores.summary()[0].dice.low)


# Files


def test_saving_and_loading_gives_the_same_table_nan_included(tmp_path):
    masks = np.zeros((2, 3, 3, 3), dtype=np.uint8)
    rows = score_masks(*masks, spacing_mm=(1, 1, 1), case="A", empty_rule="nan")
    scores = Scores(rows)
    assert Scores.load(scores.save(tmp_path / "new" / "scores.csv")) == scores


def test_the_csv_is_plain_and_the_stamp_lies_beside_it(tmp_path):
    path = Scores([row("A", 0.5)]).save(tmp_path / "scores.csv")
    with path.open(newline="") as file:
        (first,) = csv.DictReader(file)
    assert (first["case"], first["dice"], first["pred_empty"]) == ("A", "0.5", "False")
    stamp = json.loads((tmp_path / "scores.made_by.json").read_text())
    assert {"commit", "time", "empty_rules"} <= set(stamp)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.made_by.json"]


def test_pandas_reads_the_csv(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = Scores([row("A", 0.5), row("B", math.nan)]).save(tmp_path / "scores.csv")
    frame = pandas.read_csv(path)
    assert frame["dice"].mean() == 0.5
    assert frame["pred_empty"].dtype == bool


def test_an_interrupted_save_leaves_the_old_table(tmp_path, monkeypatch):
    path = Scores([row("A", 0.5)]).save(tmp_path / "scores.csv")
    before = path.read_text()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(csv.DictWriter, "writerows", stop)
    with pytest.raises(KeyboardInterrupt):
        Scores([row("B", 0.6)]).save(path)
    assert path.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.made_by.json"]


def test_the_summary_is_strict_json_with_its_stamp(tmp_path):
    scores = Scores([row("A", 0.5), row("A", math.nan, name="ET")])
    text = write_summary(scores, tmp_path / "summary.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["rows"][0]["dice"]["mean"] == 0.5
    assert found["rows"][1]["dice"]["mean"] is None
    assert "commit" in found["made_by"]


# Screen


def test_methods_stand_side_by_side_in_lines_a_terminal_can_hold():
    rows = []
    for method, shift in (("network", 0.0), ("threshold FLAIR", -0.2), ("predict nothing", -0.4)):
        for name in REGIONS:
            rows += [row(f"BraTS2021_{i:05}", 0.6 + shift + i / 50, method=method, name=name)
                     for i in range(6)]  # fmt: skip
    text = str(Scores(rows))
    assert max(len(line) for line in text.splitlines()) <= 90
    assert "network          0.650 [0." in text
    assert "worst in WT BraTS2021_00000" in text
    assert "Empty rule: brats" in text


def test_labels_never_appear_in_the_table_of_regions():
    masks = np.ones((2, 3, 3, 3), dtype=np.uint8)
    scores = Scores(score_masks(*masks, spacing_mm=(1, 1, 1), case="A"))
    assert "NCR" not in str(scores)
    assert "NCR" in str(scores.pick(kind="label"))


def test_names_are_escaped_in_html():
    page = Scores([row("<b>A</b>", 0.5, method="<script>")])._repr_html_()
    assert "<script>" not in page
    assert "0.500" in page


def test_a_narrow_column_breaks_only_before_the_interval():
    page = Scores([row("A", 0.5), row("B", 0.75)])._repr_html_()
    assert "0.625 [0.500,&nbsp;0.750]" in page


def test_tables_join_and_are_picked_from():
    both = Scores([row("A", 0.5)]) + Scores([row("A", 0.7, method="other")])
    assert both.methods == ("network", "other")
    assert both.pick(method="other").column("dice").tolist() == [0.7]
    assert len(both[:1]) == 1


def test_an_empty_table_says_so():
    assert str(Scores()) == "no scores"


# Refusal


def test_one_case_twice_is_refused():
    with pytest.raises(ValueError, match=r"WT of A by 'network' twice.*another `method`"):
        Scores([row("A", 0.5), row("A", 0.6)])


def test_a_damaged_or_absent_scores_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="bratskit evaluate PRED TRUTH"):
        Scores.load(tmp_path / "scores.csv")
    path = Scores([row("A", 0.5)]).save(tmp_path / "scores.csv")
    path.write_text(path.read_text().replace("0.5,", "half,"))
    with pytest.raises(ValueError, match="line 2 must be a float; got 'half'"):
        Scores.load(path)
    path.write_text("case,dice\n")
    with pytest.raises(ValueError, match=r"missing .*'method'"):
        Scores.load(path)


def test_an_unknown_column_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="hd95_mm"):
        Scores().column("hd95")
    with pytest.raises(ValueError, match="hd95_mm"):
        Scores().pick(metric="dice")
