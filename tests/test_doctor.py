"""The doctor looks cohorts over in parallel, goes on where it was killed, and compares cases."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bratskit.cases import (
    Case,
    check_folder,
    check_folders,
    doctor,
    find_cases,
    findings_table,
    journal,
    make_cohort,
    make_phantom,
    refuse_problems,
    write_phantom,
)
from bratskit.cases.journal import Journal, Row, journal_path
from bratskit.cli import main
from bratskit.labels import MODALITIES, get_schema

N_CASES = 20
SPACING_MM = (5.0, 5.0, 5.0)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Return a folder with twenty phantoms of 48 x 48 x 31 voxels; read-only."""
    folder = tmp_path_factory.mktemp("cohort")
    make_cohort(folder, n_cases=N_CASES, seed=8, spacing_mm=SPACING_MM, workers=1)
    return folder


@pytest.fixture
def some(cohort, tmp_path):
    """Return a folder with six of the phantoms, to be changed."""
    for number in range(6):
        name = f"Phantom_{number:05d}"
        shutil.copytree(cohort / name, tmp_path / "some" / name)
    return tmp_path / "some"


def told(findings):
    return {(one.case, one.kind, one.severity) for one in findings if one.kind != "spacing"}


def record_reads(monkeypatch):
    """List the cases that are opened from now on."""
    opened, look_at = [], doctor.look_at
    monkeypatch.setattr(doctor, "look_at", lambda case: opened.append(case.id) or look_at(case))
    return opened


def without_mask_of(folder, name):
    return next((folder / name).glob("*_seg.nii.gz"))


def test_phantoms_have_no_finding_but_their_spacing_and_what_is_true_of_their_tumours(cohort):
    findings = check_folder(cohort)
    notes = {one.kind for one in findings}
    assert notes <= {"spacing", "no-et", "tiny-et"}
    for case in find_cases(cohort):
        labels = np.asarray(nib.load(case.labels_path).dataobj)
        expected = {0: {"no-et"}}.get(int((labels == 4).sum()), set())
        found = {one.kind for one in findings if one.case == case.id}
        assert found - {"tiny-et"} == expected | {"spacing"}


@pytest.mark.parametrize("workers", [1, 3])
def test_findings_do_not_depend_on_the_number_of_workers(some, workers):
    without_mask_of(some, "Phantom_00002").write_bytes(b"")
    (some / "Phantom_00004" / "Phantom_00004_t1.nii.gz").unlink()
    findings = check_folder(some, workers=workers)
    assert [one for one in findings if one.severity == "problem"] == [
        one for one in check_folder(some) if one.severity == "problem"
    ]
    assert {("Phantom_00002", "damaged", "problem"), ("Phantom_00004", "missing", "problem")} <= (
        told(findings)
    )


def test_no_more_cases_are_open_at_once_than_there_are_workers(some, monkeypatch):
    look_at, lock, open_now, most = doctor.look_at, threading.Lock(), [0], [0]

    def counted(case):
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        look = look_at(case)
        time.sleep(0.02)
        with lock:
            open_now[0] -= 1
        return look

    monkeypatch.setattr(doctor, "look_at", counted)
    check_folder(some, workers=2)
    assert most[0] == 2


def test_a_strange_failure_in_one_case_hides_no_other_and_is_not_kept(some, monkeypatch, tmp_path):
    look_at = doctor.look_at

    def fail(case):
        if case.id == "Phantom_00001":
            msg = "strange"
            raise ZeroDivisionError(msg)
        return look_at(case)

    with monkeypatch.context() as patch:
        patch.setattr(doctor, "look_at", fail)
        findings = check_folder(some, journal=tmp_path / "j.jsonl")
    assert ("Phantom_00001", "not-examined", "problem") in told(findings)
    assert "not-examined" not in {
        one.kind for one in check_folder(some, journal=tmp_path / "j.jsonl")
    }


def test_wrong_numbers_of_schemas_and_workers_are_refused(some):
    with pytest.raises(ValueError, match="one for each of them in their order"):
        check_folders([some], schemas=["msd-task01", "msd-task01"])
    with pytest.raises(ValueError, match="Try workers=2"):
        check_folder(some, workers=0)


KINDS = ("u1", "i2", "f4")
VALUES = {"sparse": (0, 0, 0, 1), "full": (5, 6, 7, 300), "signed": (-1, 0, 1, 32767)}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    kinds=st.lists(st.sampled_from(KINDS), min_size=4, max_size=4),
    values=st.lists(st.sampled_from(sorted(VALUES)), min_size=4, max_size=4),
    spacing_mm=st.sampled_from([0.5, 1.0, 3.0, 20.0]),
    seed=st.integers(0, 99),
)
@example((1, 2, 3), ["u1"] * 4, ["sparse", "full", "full", "full"], 0.5, 0)
def test_no_case_however_odd_makes_the_doctor_fail(
    tmp_path, shape, kinds, values, spacing_mm, seed
):
    draw, paths = np.random.default_rng(seed), {}
    for name, kind, value in zip(MODALITIES, kinds, values, strict=True):
        paths[name] = tmp_path / f"odd_{name}.nii"
        array = np.resize(draw.permutation(np.resize(VALUES[value], np.prod(shape))), shape)
        file = nib.Nifti1Image(array.astype(np.int32).astype(kind), np.eye(4) * spacing_mm)
        nib.save(file, paths[name])
    labels = draw.choice([0, 0, 0, 1, 2, 4], shape).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.eye(4) * spacing_mm), tmp_path / "odd_seg.nii")
    schema = get_schema("brats2017-2021")
    case = Case(id="odd", paths=paths, labels_path=tmp_path / "odd_seg.nii", schema=schema)
    row = doctor.examine(case)
    assert Row.from_json(row.to_json()).findings == row.findings


# --- cases against each other ----------------------------------------------------------------


def test_one_patient_twice_is_told_within_a_folder_and_across_folders(some, tmp_path):
    twin = some / "Other_7"
    shutil.copytree(some / "Phantom_00000", twin)
    for path in twin.iterdir():
        path.rename(path.with_name(path.name.replace("Phantom_00000", "Other_7")))
    assert told(check_folder(some)) >= {("Other_7", "twin", "warning")}
    shutil.move(twin, tmp_path / "second" / "Other_7")
    (finding,) = (one for one in check_folders([some, tmp_path / "second"]) if one.kind == "twin")
    assert finding.where == "some/Phantom_00000, second/Other_7"


def test_a_patient_stored_anew_still_looks_like_itself(some):
    for path in sorted((some / "Phantom_00003").glob("*.nii.gz")):
        image = nib.load(path)
        array = np.asarray(image.dataobj).astype(np.float32)
        noisy = array * 0.5 if "seg" not in path.name else array.astype(np.uint8)
        made = nib.Nifti1Image(noisy, image.affine)
        name = path.name.replace("Phantom_00003", "Again")
        (some / "Again").mkdir(exist_ok=True)
        nib.save(made, some / "Again" / name)
    (finding,) = (one for one in check_folder(some) if one.kind == "look-alike")
    assert {"Again", "Phantom_00003"} == set(finding.where.split(", "))


def test_a_cohort_whose_labels_contradict_its_schema_is_a_problem(cohort):
    findings = check_folder(cohort, schema=_exchanged())
    (finding,) = (one for one in findings if one.kind == "contradiction")
    assert finding.severity == "problem"
    assert finding.where == str(cohort)
    assert "brats2017-2021" in finding.mend


def _exchanged():
    """Declare edema and core the wrong way round."""
    return replace(get_schema("brats2017-2021"), name="odd", to_internal={0: 0, 1: 2, 2: 1, 4: 3})


def rewrite_masks(folder, meaning, *, cases="*"):
    """Write the masks of phantoms anew, each integer as `meaning` says."""
    for path in folder.glob(f"{cases}/*_seg.nii.gz"):
        image = nib.load(path)
        array = np.asarray(image.dataobj).copy()
        mask = np.zeros_like(array)
        for old, new in meaning.items():
            mask[array == old] = new
        nib.save(nib.Nifti1Image(mask, image.affine, image.header), path)


@pytest.mark.parametrize(
    ("meaning", "schema", "expected"),
    [
        ({1: 1, 2: 2, 4: 3}, "brats2012-2015", "label 3 (NET) that looks like ET"),
        ({1: 1, 2: 2, 4: 4}, "brats2024-gli", "label 4 (resection cavity) that looks like ET"),
        ({1: 1, 2: 1, 4: 1}, "brats2017-2021", "one integer only, 1"),
    ],
    ids=["merged", "put outside", "whole tumour"],
)
def test_what_is_gone_after_reading_is_seen_in_the_files(some, meaning, schema, expected):
    rewrite_masks(some, meaning)
    (finding,) = (one for one in check_folder(some, schema=schema) if one.kind == "contradiction")
    assert finding.severity == "problem"
    assert expected in finding.what
    with pytest.raises(ValueError, match="have problems, and nothing was begun"):
        refuse_problems(find_cases(some, schema=schema), journal=None)


def test_a_stray_mask_is_named_and_the_others_are_not(some):
    rewrite_masks(some, {1: 4, 2: 2, 4: 1}, cases="Phantom_00002")
    (finding,) = (one for one in check_folder(some) if one.kind == "odd-labels")
    assert (finding.case, finding.severity) == ("Phantom_00002", "warning")
    assert "label 1 (NCR/NET) that looks like ET" in finding.what


def test_cases_called_as_in_another_edition_are_told_once(some):
    for i, path in enumerate(sorted(some.iterdir())):
        named = some / f"BraTS2021_{i:05d}"
        path.rename(named)
        for file in named.iterdir():
            file.rename(named / file.name.replace(path.name, named.name))
    assert not [one for one in check_folder(some) if one.kind == "other-edition"]
    findings = check_folder(some, schema="brats2024-gli")
    (finding,) = (one for one in findings if one.kind == "other-edition")
    assert finding.severity == "warning"
    assert "6 of 6 cases are called as in brats2017-2021 (BraTS2021_00000, " in finding.what


def test_a_mask_is_not_told_to_be_misplaced_while_its_labels_are_in_doubt(some, monkeypatch):
    examine_as_before = doctor.examine

    def examine(case):
        row = examine_as_before(case)
        blamed = replace(row.findings[0], kind="mask-place", what="shifted", severity="problem")
        return replace(row, findings=(blamed,))

    monkeypatch.setattr(doctor, "examine", examine)
    places = [one for one in check_folder(some) if one.kind == "mask-place"]
    assert {(one.what, one.severity) for one in places} == {("shifted", "problem")}
    places = [one for one in check_folder(some, schema=_exchanged()) if one.kind == "mask-place"]
    assert {one.severity for one in places} == {"note"}
    assert all("cannot be judged while its labels are in doubt" in one.what for one in places)


def test_a_case_unlike_the_cohort_in_orientation_grid_or_mask_is_noted(some):
    for path in (some / "Phantom_00001").glob("*.nii.gz"):
        turned = nib.as_closest_canonical(nib.load(path))
        nib.save(nib.Nifti1Image(np.asarray(turned.dataobj).copy(), turned.affine), path)
    for path in (some / "Phantom_00002").glob("*.nii.gz"):
        nib.save(nib.load(path).slicer[2:], path)
    without_mask_of(some, "Phantom_00003").unlink()
    assert {one for one in told(check_folder(some)) if one[1] not in ("no-et", "tiny-et")} == {
        ("Phantom_00001", "odd-orientation", "note"),
        ("Phantom_00002", "odd-grid", "note"),
        ("Phantom_00003", "no-mask", "warning"),
        ("-", "unlabelled", "note"),
    }


# --- editions and layouts --------------------------------------------------------------------


@pytest.mark.parametrize("edition", ["msd-task01", "brats2012-2015", "brats2023-gli"])
def test_every_layout_is_read_and_a_planted_fault_is_placed(tmp_path, edition):
    cases = [
        write_phantom(make_phantom(seed, spacing_mm=SPACING_MM), tmp_path, edition=edition)
        for seed in (0, 10)
    ]
    assert told(check_folder(tmp_path, schema=edition)) <= {(cases[0].id, "tiny-et", "note")}
    path = Path(cases[1].labels_path)
    path.write_bytes(path.read_bytes()[:300])
    findings = check_folder(tmp_path, schema=edition)
    assert (cases[1].id, "damaged", "problem") in told(findings)


def test_a_damaged_channel_of_an_msd_file_is_named(tmp_path):
    case = write_phantom(make_phantom(5, spacing_mm=SPACING_MM), tmp_path, edition="msd-task01")
    path = case.paths["t1"]
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[..., case.channels["t1"]] = 0
    nib.save(nib.Nifti1Image(array, image.affine, image.header), path)
    (finding,) = (
        one for one in check_folder(tmp_path, schema="msd-task01") if one.kind != "spacing"
    )
    assert (finding.kind, finding.where) == ("constant", f"{path.name} (t1)")


def test_a_dataset_json_that_contradicts_the_schema_is_a_problem_of_the_folder(tmp_path):
    write_phantom(make_phantom(5, spacing_mm=SPACING_MM), tmp_path, edition="msd-task01")
    findings = check_folder(tmp_path, schema="brats2023-gli")
    (finding,) = (one for one in findings if one.kind == "contradiction")
    assert "msd-task01" in finding.what + finding.mend


# --- the journal -----------------------------------------------------------------------------


def test_a_second_look_reads_only_what_changed(some, tmp_path, monkeypatch):
    journal = tmp_path / "j.jsonl"
    first = check_folder(some, journal=journal)
    opened = record_reads(monkeypatch)
    assert check_folder(some, journal=journal) == first
    assert opened == []
    os.utime(without_mask_of(some, "Phantom_00002"))
    assert check_folder(some, journal=journal) == first
    assert opened == ["Phantom_00002"]
    check_folder(some, journal=journal, schema="brats2023-gli")
    assert len(opened) == 7


def test_cohort_findings_come_from_the_journal_too(some, tmp_path, monkeypatch):
    shutil.copytree(some / "Phantom_00000", some / "Z" / "Phantom_00000")
    for path in (some / "Z" / "Phantom_00000").iterdir():
        path.rename(path.with_name(path.name.replace("Phantom_00000", "Z")))
    first = check_folder(some, journal=tmp_path / "j.jsonl")
    assert ("Phantom_00000", "twin", "warning") in told(first)
    opened = record_reads(monkeypatch)
    assert check_folder(some, journal=tmp_path / "j.jsonl") == first
    assert opened == []


def test_a_journal_cut_anywhere_costs_only_the_cut_line(some, tmp_path, monkeypatch):
    journal = tmp_path / "j.jsonl"
    first = check_folder(some, journal=journal)
    content = journal.read_bytes()
    draw, opened = random.Random(0), record_reads(monkeypatch)
    for _ in range(8):
        cut = draw.randrange(len(content))
        journal.write_bytes(content[:cut])
        opened.clear()
        assert check_folder(some, journal=journal) == first
        assert len(opened) <= 6 - content[:cut].count(b"\n")
        opened.clear()
        assert check_folder(some, journal=journal) == first
        assert opened == []


def test_a_killed_check_goes_on_and_ends_as_if_it_had_not_been(cohort, tmp_path, monkeypatch):
    whole = check_folder(cohort)
    command = [sys.executable, "-m", "bratskit", "check", str(cohort), "--workers", "2"]
    draw = random.Random(0)
    journal = tmp_path / "j.jsonl"
    for _ in range(3):
        wanted = _n_lines(journal) + draw.randrange(1, 5)
        process = subprocess.Popen(
            [*command, "--journal", str(journal)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and _n_lines(journal) < wanted:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = _n_lines(journal)
    assert 3 <= kept < N_CASES
    opened = record_reads(monkeypatch)
    assert check_folder(cohort, journal=journal) == whole
    assert len(opened) == N_CASES - kept


def _n_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_an_unwritable_cache_is_said_once_and_nothing_else_changes(some, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BRATSKIT_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="set BRATSKIT_CACHE to a folder") as caught:
        findings = check_folder(some, journal="auto")
    assert len(caught) == 1
    assert findings == check_folder(some)


def test_the_journal_of_a_folder_lies_in_the_cache_and_never_in_the_folder(some, monkeypatch):
    before = sorted(some.rglob("*"))
    check_folder(some, journal="auto")
    assert journal_path(some).exists()
    assert sorted(some.rglob("*")) == before
    opened = record_reads(monkeypatch)
    refuse_problems(find_cases(some))
    assert opened == []


def test_a_journal_of_other_checks_hides_nothing(some, tmp_path, monkeypatch):
    check_folder(some, journal=tmp_path / "j.jsonl")
    opened = record_reads(monkeypatch)
    monkeypatch.setattr(journal, "CHECKS", "other")
    check_folder(some, journal=tmp_path / "j.jsonl")
    assert len(opened) == 6


@pytest.mark.parametrize("name", ["check_mask.py", "look.py", "evidence.py", "order.py"])
def test_any_change_of_a_check_changes_the_version_of_the_checks(tmp_path, name):
    source = Path(journal.__file__).parent
    shutil.copytree(source, tmp_path / "cases")
    shutil.copy(source.parent / "labels.py", tmp_path)
    assert journal.checks_version(tmp_path / "cases") == journal.CHECKS
    with (tmp_path / "cases" / name).open("a") as file:
        file.write("CHANGED = 1\n")
    assert journal.checks_version(tmp_path / "cases") != journal.CHECKS


def test_without_a_home_the_check_goes_on_and_says_so_once(some, monkeypatch):
    def homeless():
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.delenv("BRATSKIT_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    journal._home_cache.cache_clear()
    try:
        with pytest.warns(UserWarning, match="set BRATSKIT_CACHE to a folder") as caught:
            findings = check_folders([some, some], journal="auto")
        check_folder(some, journal="auto")
    finally:
        journal._home_cache.cache_clear()
    assert len(caught) == 1
    assert findings == check_folders([some, some])


def test_cases_without_masks_are_counted_in_one_note_however_many(some):
    for number in (0, 1, 3, 4):
        without_mask_of(some, f"Phantom_{number:05d}").unlink()
    (finding,) = (one for one in check_folder(some) if "mask" in one.what)
    assert (finding.kind, finding.severity) == ("unlabelled", "note")
    assert finding.what.startswith("no mask in 4 of 6 cases: Phantom_00000, ")
    assert finding.what.endswith("Phantom_00003 and 1 more")


def test_mends_that_differ_by_a_path_alone_are_written_once(some):
    for path in some.rglob("*_t1.nii.gz"):
        path.write_bytes(b"")
    findings = [one for one in check_folder(some) if one.kind == "damaged"]
    assert len({one.mend for one in findings}) == 6
    short = findings_table(findings, show_all=False)
    assert short.count("->") == 1
    assert "-> Copy or download the file again." in short
    assert findings_table(findings).count("->") == 6


def test_a_line_of_another_version_is_passed_over(tmp_path):
    (tmp_path / "j.jsonl").write_text('{"case": "a", "key": "k"}\n[1, 2]\n7\nnonsense\n')
    assert Journal(tmp_path / "j.jsonl").get("k") is None


def test_refuse_problems_lists_each_case_with_its_mend(some):
    without_mask_of(some, "Phantom_00002").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 6 cases have problems[^\0]*Copy or download"):
        refuse_problems(find_cases(some), journal=None)
    refuse_problems([])


# --- for people and programs -----------------------------------------------------------------


def test_the_table_of_thousands_stays_readable_and_counts_what_it_hides(some):
    without_mask_of(some, "Phantom_00002").write_bytes(b"")
    findings = check_folder(some)
    many = [replace(one, case=f"{one.case}_{n}") for n in range(300) for one in findings]
    short = findings_table(many, show_all=False)
    assert short.count("must hold an image; got an empty file") == 20
    assert "and 280 more like these (--all shows them), 300 cases in all" in short
    notes = [line for line in short.splitlines() if line.startswith("note")]
    assert len(notes) <= 8
    assert any("more like these (--all shows them)" in line for line in notes)
    assert len(findings_table(many).splitlines()) > 1500
    assert short.splitlines()[-1] == findings_table(many).splitlines()[-1]


def test_the_shell_takes_folders_editions_and_a_journal(some, tmp_path, capsys):
    second = tmp_path / "second"
    case = write_phantom(make_phantom(0, spacing_mm=SPACING_MM), second, edition="brats2023-gli")
    arguments = ["check", str(some), str(second), "--json", "--workers", "2"]
    arguments += ["--journal", str(tmp_path / "j.jsonl")]
    assert main([*arguments, "--edition", "brats2017-2021", "--edition", "brats2023-gli"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"case", "kind", "what", "where", "mend", "severity"} == set(findings[0])
    assert case.id in {finding["case"] for finding in findings}
    assert _n_lines(tmp_path / "j.jsonl") == 7
    assert main([*arguments, "--edition", "brats2017-2021"]) == 1
    assert main(["check", str(some), "--edition", "msd-task01", "--edition", "msd-task01"]) == 2
    assert main(["check", str(some), "--workers", "0", "--journal", "none"]) == 2


def test_looking_a_cohort_over_needs_no_torch(some):
    code = (
        "import sys; from bratskit.cases import check_folder; "
        f"check_folder({str(some)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_mask_of_another_name_or_another_place_is_said_to_be_taken_or_not(some):
    first, second = (some / f"Phantom_{number:05d}" for number in range(2))
    (first / f"{first.name}_seg.nii.gz").rename(first / "W39_1998.09.19_Segm.nii.gz")
    (some / "predictions").mkdir()
    apart = some / "predictions" / f"{second.name}_seg.nii.gz"
    shutil.copy(second / apart.name, apart)
    said = told(check_folder(some, workers=1))
    assert {(first.name, "borrowed-mask", "note"), (second.name, "passed-by", "note")} <= said
