"""The report is one page that stands alone, says what is missing, and marks the right cases."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from pictures import small_scan, write_scan

from bratskit.cases import Split, load_scan, make_cohort, write_labels
from bratskit.evaluate import Scores, score_masks, write_summary
from bratskit.runtime import RunFolder
from bratskit.settings import get_recipe
from bratskit.visualize import pick_cases, write_report

IDS = ("Phantom_00000", "Phantom_00001", "Phantom_00002", "Phantom_00003")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    """Return a finished run and its report: four test cases, each worse than the one before."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "demo").create()
    get_recipe("tiny").save(run.settings)
    Split(train=("Phantom_00007",), validation=("Phantom_00008",), test=IDS).save(run.split)
    rows = [{"epoch": n, "step": 50 * n, "loss": 1 / n, "lr": 1e-3, "seconds": 30} for n in (1, 2)]
    run.history.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    scores = []
    for number, case_id in enumerate(IDS):
        scan = small_scan(name=case_id)
        write_scan(scan, run.cases)
        pred = np.roll(scan.labels, number, axis=0)
        write_labels(pred, _mask(run, case_id), like=scan, edition="brats2023-gli")
        _mask(run, case_id).with_name(f"{case_id}.json").write_text('{"edition": "brats2023-gli"}')
        for method, labels in (("network", pred), ("predict nothing", pred * 0)):
            scores += score_masks(labels, scan.labels, spacing_mm=scan.spacing_mm, case=case_id,
                                  method=method)  # fmt: skip
    Scores(scores).save(run.scores)
    write_summary(Scores(scores), run.summary)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def text(finished) -> str:
    """Return the page of the finished run."""
    return finished.report.read_text(encoding="utf-8")


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    """Return a copy of the finished run that a test may spoil."""
    return RunFolder(shutil.copytree(finished.path, tmp_path / "demo"))


def _mask(run, case_id):
    run.predictions.mkdir(exist_ok=True)
    return run.predictions / f"{case_id}.nii.gz"


def read(run: RunFolder) -> str:
    return write_report(run).read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(text):
    links = re.findall(r'(?:src|href)="([^"]{0,40})', text) + re.findall(r"url\(", text)
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "<script" not in text
    assert len(text) < 1_000_000


def test_phantoms_of_another_edition_are_found_and_their_masks_read_in_it(tmp_path):
    run = RunFolder(tmp_path / "run").create()
    run.source.write_text('{"data_dir": "", "edition": "msd-task01"}', encoding="utf-8")
    (case,) = make_cohort(run.cases, n_cases=1, spacing_mm=(8.0,) * 3, edition="msd-task01")
    scan = load_scan(case)
    write_labels(scan.labels, _mask(run, case.id), like=scan)  # no receipt: the run's own
    Scores(score_masks(scan.labels, scan.labels, spacing_mm=scan.spacing_mm, case=case.id)).save(
        run.scores
    )
    assert "with the cases on disk" not in read(run)
    assert (run.figures / "report_comparison.png").is_file()


def test_the_page_tells_the_whole_run(text):
    for wanted in ("Not a medical device", "Recipe <b>tiny</b>", "2 epochs, 100 optimiser steps",
                   "1.0 minutes", "predict nothing", "bootstrap", "empty rule", "phantoms",
                   "training.patch_vox", "4 cases", "summary.json"):  # fmt: skip
        assert wanted in text, wanted
    assert "Not here" not in text


def test_the_cases_marked_are_the_worst_the_median_and_the_best(finished, text):
    scores = Scores.load(finished.scores)
    assert pick_cases(scores, "network") == {"worst": IDS[3], "median": IDS[2], "best": IDS[0]}
    assert re.search(rf'{IDS[0]}<span class="tag best">', text)
    assert re.search(rf'{IDS[3]}<span class="tag worst">', text)


def test_one_case_is_not_ranked_against_itself(finished):
    scores = Scores.load(finished.scores).pick(case=IDS[1])
    assert pick_cases(scores, "network") == {"worst": IDS[1]}
    assert pick_cases(Scores(), "network") == {}


def test_headline_is_the_mean_and_the_best_baseline(finished, text):
    dices = Scores.load(finished.scores).pick(method="network", name="WT").column("dice")
    assert f"WT Dice<b>{dices.mean():.2f}</b>" in text
    assert "best baseline 0.00" in text
    assert "not above" not in text


def test_a_headline_that_no_baseline_trails_says_so(run):
    rows = Scores.load(run.scores)
    swapped = {"network": "predict nothing", "predict nothing": "network"}
    Scores(dataclasses.replace(row, method=swapped[row.method]) for row in rows).save(run.scores)
    assert read(run).count("not above the best baseline") == 3


def test_the_comparison_stays_for_a_report_without_cases(run, text):
    assert text.count("<img") == 3  # strip plot, comparison, curves
    run.cases.rename(run.path / "elsewhere")
    assert "over the regions: worst, median, best." in read(run)


def test_a_flight_through_the_head_comes_along_after_the_figures(run):
    run.figures.mkdir(exist_ok=True)
    (run.figures / "a_flight.gif").write_bytes(b"GIF89a")
    (run.figures / "dice_by_size.png").write_bytes(b"png")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", read(run))
    assert captions[-2:] == ["Dice by size.", "A flight."]
    assert 'src="data:image/gif;base64,R0lGODlh"' in read(run)


def test_nobody_is_said_to_have_drawn_the_truth_of_a_phantom(run, text):
    assert "drawn by people" not in text
    csv = run.scores.read_text(encoding="utf-8")
    run.scores.write_text(csv.replace("Phantom", "BraTS2021"), encoding="utf-8")
    assert "drawn by people" in read(run)


def test_broken_files_are_said_not_crashed_on(run):
    for name in ("scores", "history", "split", "settings", "summary"):
        getattr(run, name).write_text("{broken", encoding="utf-8")
    text = read(run)
    assert text.count("Not here, or not readable") == 5  # the kept comparison is still there
    assert "Not a medical device" in text


def test_missing_predictions_are_said(run):
    _mask(run, IDS[0]).unlink()
    assert re.search(rf"Not here.*{IDS[0]}\.nii\.gz", read(run))


def test_an_empty_run_folder_gives_a_page_of_what_to_do(tmp_path):
    text = read(RunFolder(tmp_path))
    assert text.count("Not here") == 6
    assert "bratskit evaluate" in text


def test_names_cannot_break_the_page(tmp_path):
    run = RunFolder(tmp_path / "<b>&").create()
    assert "<h1>Report of run “&lt;b&gt;&amp;”</h1>" in read(run)


def test_a_missing_run_folder_is_refused_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="bratskit demo --out"):
        write_report(tmp_path / "nowhere")


def test_clean_up_is_told_with_scores_without_and_with_it(run):
    write_report(run)
    assert "bratskit tune RUN" in run.report.read_text(encoding="utf-8")
    dice = {"without": 0.5, "recipe": 0.6, "chosen": 0.81, "left out": 0.7}
    tuning = {
        "patients": ["Phantom_00008"],
        "settings": {"temperature": 1.2, "smallest_component_vox": 200},
        "dice": {name: dict.fromkeys(("WT", "TC", "ET"), value) for name, value in dice.items()},
        "trials": [{}] * 18,
    }
    run.tuning.write_text(json.dumps(tuning), encoding="utf-8")
    write_report(run)
    text = run.report.read_text(encoding="utf-8")
    for wanted in ("smallest_component_vox 200", "0.810", "0.500", "18 values were tried"):
        assert wanted in text
