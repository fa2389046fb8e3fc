"""Parts are drawn by patient, alike from one seed, and each edition and ET gets its share."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.cases.duplicates import Duplicate
from bratskit.cases.facts import CaseFacts
from bratskit.cases.patients import patient_of
from bratskit.cases.split import PARTS, Split, make_split, refuse_leaks

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


def test_a_run_drawn_before_there_were_facts_is_drawn_again():
    # as drawn by version 0.2, whose scores are stored
    split = make_split(
        THIRTY, seed=0, has_et={case_id: case_id not in THIRTY[::7] for case_id in THIRTY}
    )
    assert split.validation == (
        "BraTS2021_00000",
        "Brats18_TCIA_10_1",
        "Brats18_TCIA_6_1",
        "Brats18_TCIA_7_1",
    )
    assert split.test == (
        "BraTS2021_00002",
        "BraTS2021_00008",
        "BraTS2021_00009",
        "Brats18_TCIA_0_1",
        "Brats18_TCIA_16_1",
        "Brats18_TCIA_18_1",
        "Brats18_TCIA_5_1",
        "Brats18_TCIA_8_1",
    )


def test_tumour_size_gets_its_share_by_hand():
    # 24 patients of one edition, all with ET: terciles of 8, of which a quarter each is tested
    ids = [f"Brats18_X_{n:03d}_1" for n in range(24)]
    facts = {
        case_id: CaseFacts(edition="a", has_et=True, tumour_ml=n) for n, case_id in enumerate(ids)
    }
    split = make_split(ids, seed=0, facts=facts, validation=0.125, test=0.25)
    tercile = {case_id: n // 8 for n, case_id in enumerate(ids)}
    assert sorted(tercile[i] for i in split.test) == [0, 0, 1, 1, 2, 2]
    assert sorted(tercile[i] for i in split.validation) == [0, 1, 2]
    assert split.facts == facts


def test_patients_known_by_voxels_stay_together():
    same = [("BRATS_001", "Brats18_X_7_1"), ("BRATS_001", "BraTS20_Training_003")]
    ids = [f"BRATS_{n:03d}" for n in range(9)] + [f"Brats18_X_{n}_1" for n in range(9)]
    ids += ["BraTS20_Training_003", "Brats17_X_7_1"]
    for seed in range(6):
        split = make_split(ids, seed=seed, same_patient=same)
        one = {split.part_of[i] for i in (*same[0], *same[1], "Brats17_X_7_1")}
        assert len(one) == 1


def test_manifest_keeps_facts_and_groups_and_guards_them(tmp_path):
    same = (("a", "x"),)
    facts = {i: CaseFacts(edition="e", has_et=None, folder="/data") for i in "abcdx"}
    split = make_split(list("abcdx"), seed=0, facts=facts, same_patient=same)
    loaded = Split.load(split.save(tmp_path / "split.json"))
    assert (loaded, loaded.facts, loaded.same_patient) == (split, facts, same)
    with pytest.raises(ValueError, match=r"patient a must be in one part; got a in .* and x in "):
        Split(train=("a", "b"), validation=("c",), test=("x",), same_patient=same)


def test_a_leak_is_refused_with_ids_parts_and_mend():
    split = Split(train=("Brats18_X_1_1", "b"), validation=("c",), test=("BRATS_001",))
    pair = {"what": "same voxels", "modality": "t1", "correlation": 1.0}
    leak = Duplicate(first="Brats18_X_1_1", second="BRATS_001", **pair)
    expected = (
        r"got Brats18_X_1_1 in train and BRATS_001 in test \(same voxels in t1, r = 1\.000\)\. "
        r"Draw it again with same_patient=same_patients\(cases\), or leave BRATS_001 out"
    )
    with pytest.raises(ValueError, match=expected):
        refuse_leaks(split, [leak])
    refuse_leaks(split, [Duplicate(first="Brats18_X_1_1", second="b", **pair)])
    refuse_leaks(split, [Duplicate(first="BRATS_001", second="elsewhere", **pair)])


def test_facts_must_cover_every_case():
    with pytest.raises(
        ValueError, match=r"got none for b among 1\. Take facts=read_facts\(cases\)"
    ):
        make_split(["a", "b", "c"], seed=0, facts={i: CaseFacts(edition="e") for i in "ac"})


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


def test_a_split_counts_its_patients_by_kind_for_people_to_read():
    ids = [f"Brats18_A_{n}_1" for n in range(4)] + ["BRATS_001", "BRATS_002"]
    split = Split(train=tuple(ids[:3]), validation=(ids[3], ids[4]), test=(ids[5],))
    assert split.summary() == {
        "BRATS, no mask": {"train": 0, "validation": 1, "test": 1},
        "Brats18, no mask": {"train": 3, "validation": 1, "test": 0},
    }
