"""Parts are drawn by patient, alike from one seed, and each edition and ET gets its share."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.cases.split import PARTS, Split, has_et, make_split, patient_of

THIRTY = [f"Brats18_TCIA_{n}_1" for n in range(20)] + [f"BraTS2021_{n:05d}" for n in range(10)]


def parts_of(split):
    return {part: set(getattr(split, part)) for part in PARTS}


def test_thirty_patients_are_shared_out_as_a_pencil_does():
    # test: 0.25 x 30 = 7.5, rounded to even 8; validation: 4.5 -> 4
    split = make_split(THIRTY, seed=0)
    assert (len(split.train), len(split.validation), len(split.test)) == (18, 4, 8)
    assert sorted([*split.train, *split.validation, *split.test]) == sorted(THIRTY)


def test_each_edition_and_et_gets_its_share():
    enhancing = {case_id: case_id not in THIRTY[-4:] for case_id in THIRTY}
    split = make_split(THIRTY, seed=3, has_et=enhancing)
    # strata of 20, 6 and 4 patients; quotas of 8 test patients: 5.33, 1.6 and 1.07
    count = [sum(not enhancing[i] for i in split.test), sum("18" in i[:7] for i in split.test)]
    assert count == [1, 5]


def test_visits_of_one_patient_stay_together():
    visits = [f"BraTS-GLI-{patient:05d}-{visit:03d}" for patient in range(5) for visit in range(3)]
    twins = [f"BraTS2021_{patient:05d}" for patient in range(5)]
    split = make_split(visits + twins, seed=1)
    for part in parts_of(split).values():
        assert len(part) == 4 * len({patient_of(case_id) for case_id in part})


@pytest.mark.parametrize(
    ("case_id", "patient"),
    [
        ("Brats17_TCIA_135_1", "TCIA_135"),
        ("Brats18_2013_20_1", "2013_20"),
        ("BraTS19_2013_20_1", "2013_20"),
        ("BraTS20_Training_355", "BraTS20_Training_355"),
        ("BraTS2021_01482", "BraTS2021_01482"),
        ("BraTS-GLI-01482-000", "BraTS2021_01482"),
        ("BraTS-PED-00012-000", "BraTS-PED-00012-000"),
        ("BRATS_001", "BRATS_001"),
    ],
)
def test_patient_is_read_from_the_conventions_of_the_editions(case_id, patient):
    assert patient_of(case_id) == patient


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(
    n_cases=st.integers(3, 40),
    seed=st.integers(0, 99),
    test=st.floats(0, 0.6),
    validation=st.floats(0, 0.39),
)
def test_any_split_is_whole_disjoint_filled_and_repeatable(n_cases, seed, test, validation):
    ids = [f"Brats18_X_{n}_1" if n % 3 else f"BraTS2021_{n:05d}" for n in range(n_cases)]
    enhancing = {case_id: n % 5 > 0 for n, case_id in enumerate(ids)}
    shares = {"validation": validation, "test": test, "has_et": enhancing}
    split = make_split(ids, seed=seed, **shares)
    parts = parts_of(split).values()
    assert min(len(part) for part in parts) >= 1
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == n_cases
    shuffled = list(np.random.default_rng(seed).permutation(ids))
    assert make_split([str(case_id) for case_id in shuffled], seed=seed, **shares) == split


def test_seed_decides_the_draw():
    tests = {make_split(THIRTY, seed=seed).test for seed in range(4)}
    assert len(tests) == 4


def test_manifest_comes_back_with_its_seed_and_stamp(tmp_path):
    split = make_split(THIRTY, seed=5)
    path = split.save(tmp_path / "run" / "split.json")
    loaded = Split.load(path)
    assert loaded == split
    assert loaded.made_by.keys() >= {"bratskit", "commit", "time"}
    assert Split.load(loaded.save(tmp_path / "copy.json")).made_by == loaded.made_by
    assert json.loads(path.read_text())["seed"] == 5


def test_ids_in_a_split_are_plain_strings():
    assert {type(case_id) for case_id in make_split(THIRTY, seed=0).train} == {str}


def test_et_is_found_by_the_schema_of_the_case(tmp_path, write_case):
    full = write_case(tmp_path, "full", shape=(12, 12, 12))
    newer = write_case(tmp_path, "newer", shape=(12, 12, 12), schema="brats2023-gli")
    empty = write_case(tmp_path, "empty", shape=(12, 12, 12), labels=np.full((12, 12, 12), 2))
    bare = write_case(tmp_path, "bare", shape=(12, 12, 12), labels=None)
    found = has_et([full, newer, empty, bare])
    assert found == {"full": True, "newer": True, "empty": False}


def test_fewer_than_three_patients_are_refused():
    with pytest.raises(ValueError, match=r"got 2: a, b\. Add cases or make phantoms"):
        make_split(["a", "b"], seed=0)
    with pytest.raises(ValueError, match=r"got 1: CBICA_A\."):
        make_split(["Brats18_CBICA_A_1", "Brats18_CBICA_A_2", "Brats17_CBICA_A_1"], seed=0)


def test_repeated_ids_and_shares_without_training_are_refused():
    with pytest.raises(ValueError, match="got a more than once"):
        make_split(["a", "a", "b", "c"], seed=0)
    with pytest.raises(ValueError, match=r"got 0\.5 and 0\.5\. Try 0\.15 and 0\.25"):
        make_split(THIRTY, seed=0, validation=0.5, test=0.5)


def test_manifest_that_leaks_a_patient_is_refused(tmp_path):
    path = make_split(["a", "b", "c"], seed=0).save(tmp_path / "split.json")
    path.write_text(path.read_text().replace('"b"', '"a"').replace('"c"', '"a"'))
    with pytest.raises(ValueError, match=r"patient a must be in one part.*make_split"):
        Split.load(path)


def test_missing_and_damaged_manifests_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"make_split\(\.\.\.\)\.save"):
        Split.load(tmp_path / "split.json")
    (tmp_path / "split.json").write_text('{"train": []}')
    with pytest.raises(ValueError, match=r"KeyError: 'validation'.*Make it again"):
        Split.load(tmp_path / "split.json")
