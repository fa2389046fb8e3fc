"""Folds partition the patients beside one test part, and each kind of patient has its share."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.cases.facts import CaseFacts
from bratskit.cases.folds import Folds, load_split, make_folds
from bratskit.cases.patients import group_patients
from bratskit.cases.split import PARTS, make_split
from bratskit.cases.strata import strata_of

COHORTS = st.lists(
    st.builds(
        CaseFacts,
        edition=st.sampled_from(["Brats18", "BRATS", "BraTS-GLI"]),
        has_et=st.sampled_from([True, True, False, None]),
        tumour_ml=st.one_of(st.none(), st.floats(0, 300)),
    ),
    min_size=8,
    max_size=60,
)
QUICK = settings(max_examples=40, derandomize=True, deadline=None, database=None)


def named(cohort):
    """Name the cases so that every third is a second visit of the one before."""
    ids = [f"BraTS-GLI-{n - (n % 3 == 2):05d}-{n % 3:03d}" for n in range(len(cohort))]
    return dict(zip(ids, cohort, strict=True))


def pairs_of(ids, chance):
    """Declare that some neighbours are one patient, beyond what names say."""
    return [pair for at, pair in enumerate(pairwise(sorted(ids))) if (at * 7) % 10 < chance]


def within_one_of_the_share(strata, parts):
    """Check every level of the strata by counting, as a pencil would."""
    for depth in range(4):
        sizes = Counter(kind[:depth] for kind in strata.values())
        for part in parts:
            counts = Counter(strata[patient][:depth] for patient in part)
            for kind, size in sizes.items():
                assert abs(counts[kind] - size * len(part) / len(strata)) < 1


def patients_in(ids, patients):
    return [patient for patient, members in patients.items() if set(members) & set(ids)]


@QUICK
@given(cohort=COHORTS, seed=st.integers(0, 99), n_folds=st.integers(2, 4), chance=st.integers(0, 2))
def test_folds_partition_patients_in_their_shares(cohort, seed, n_folds, chance):
    facts = named(cohort)
    same = pairs_of(facts, chance)
    patients = group_patients(facts, same)
    if len(patients) < n_folds + 2:
        return
    drawn = make_folds(list(facts), seed=seed, n_folds=n_folds, facts=facts, same_patient=same)
    parts = [drawn.test, *drawn.folds]
    assert sorted(i for part in parts for i in part) == sorted(facts)  # every case placed once
    by_patient = [patients_in(part, patients) for part in parts]
    assert sum(map(len, by_patient)) == len(patients)  # nobody in two parts
    within_one_of_the_share(strata_of(patients, facts), by_patient)
    sizes = [len(part) for part in by_patient[1:]]
    assert max(sizes) - min(sizes) <= 1
    for fold, split in zip(drawn.folds, drawn.splits, strict=True):
        assert (split.validation, split.test) == (fold, drawn.test)
        assert {*split.train} == {*facts} - {*fold} - {*drawn.test}
    shuffled = [str(i) for i in np.random.default_rng(seed).permutation(list(facts))]
    again = {"seed": seed, "n_folds": n_folds, "facts": facts, "same_patient": same[::-1]}
    assert make_folds(shuffled, **again) == drawn


@QUICK
@given(cohort=COHORTS, seed=st.integers(0, 99), chance=st.integers(0, 2))
def test_a_split_by_facts_holds_everybody_once_in_their_shares(cohort, seed, chance):
    facts = named(cohort)
    same = pairs_of(facts, chance)
    patients = group_patients(facts, same)
    if len(patients) < 3:
        return
    split = make_split(list(facts), seed=seed, facts=facts, same_patient=same)
    parts = [getattr(split, part) for part in PARTS]
    assert sorted(i for part in parts for i in part) == sorted(facts)
    by_patient = [patients_in(part, patients) for part in parts]
    assert sum(map(len, by_patient)) == len(patients)
    within_one_of_the_share(strata_of(patients, facts), by_patient)
    assert make_split(sorted(facts)[::-1], seed=seed, facts=facts, same_patient=same) == split


def test_ten_patients_by_hand():
    # test 0.2 x 10 = 2; the other 8 in four folds of 2; 5 of each edition: one each everywhere
    ids = [f"Brats18_X_{n}_1" for n in range(5)] + [f"BraTS2021_{n:05d}" for n in range(5)]
    drawn = make_folds(ids, seed=0, n_folds=4)
    for part in (drawn.test, *drawn.folds):
        assert sorted(case_id[:6] for case_id in part) == ["BraTS2", "Brats1"]
    assert drawn.summary()["Brats18, no mask"] == dict.fromkeys(
        ("test", "fold 0", "fold 1", "fold 2", "fold 3"), 1
    )


def test_seed_decides_the_folds():
    ids = [f"p{n}" for n in range(20)]
    assert len({make_folds(ids, seed=seed).test for seed in range(4)}) == 4


def test_terciles_are_named_by_hand():
    facts = {f"p{n}": CaseFacts(edition="e", has_et=True, tumour_ml=n) for n in range(6)}
    strata = strata_of({name: [name] for name in facts}, facts)
    assert [strata[f"p{n}"][2] for n in range(6)] == ["small"] * 2 + ["middle"] * 2 + ["large"] * 2


def test_manifest_comes_back_whole_and_readable(tmp_path):
    facts = named(
        [CaseFacts(edition="e", has_et=n % 2 > 0, tumour_ml=n, folder="/d") for n in range(30)]
    )
    same = [("BraTS-GLI-00000-000", "BraTS-GLI-00003-000")]
    drawn = make_folds(list(facts), seed=3, facts=facts, same_patient=same)
    path = drawn.save(tmp_path / "new" / "folds.json")
    loaded = Folds.load(path)
    assert (loaded, loaded.facts, loaded.same_patient) == (drawn, facts, tuple(same))
    assert loaded.made_by.keys() >= {"bratskit", "commit", "time"}
    content = json.loads(path.read_text())
    n_patients = len(group_patients(facts, same))
    assert sum(sum(row.values()) for row in content["patients"].values()) == n_patients
    assert content["facts"]["BraTS-GLI-00001-001"]["folder"] == "/d"


def test_a_patient_moved_by_hand_into_two_folds_is_refused(tmp_path):
    ids = [f"BraTS2021_{n:05d}" for n in range(8)]
    path = make_folds(ids, seed=0, n_folds=2).save(tmp_path / "folds.json")
    content = json.loads(path.read_text())
    content["folds"][1].append(content["folds"][0][0].replace("BraTS2021_", "BraTS-GLI-") + "-000")
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"must be in one part; got .* in .*make_split"):
        Folds.load(path)


def test_one_fold_or_one_split_is_read_from_its_manifest(tmp_path):
    ids = [f"p{n}" for n in range(12)]
    drawn, split = make_folds(ids, seed=0, n_folds=3), make_split(ids, seed=0)
    folds, one = drawn.save(tmp_path / "folds.json"), split.save(tmp_path / "split.json")
    assert load_split(folds, fold=2) == drawn.splits[2]
    assert load_split(one) == split
    with pytest.raises(ValueError, match=r"fold must be 0 to 2 for .*; got 3\. Try fold=0"):
        load_split(folds, fold=3)
    with pytest.raises(ValueError, match=r"fold must be 0 to 2 for .*; got None"):
        load_split(folds)
    with pytest.raises(ValueError, match=r"fold must be left out for .*one split; got 1"):
        load_split(one, fold=1)


def test_impossible_folds_are_refused(tmp_path):
    ids = [f"p{n}" for n in range(5)]
    with pytest.raises(ValueError, match=r"got 5 for 4 patients beside 1 .*Try n_folds=4"):
        make_folds(ids, seed=0)
    with pytest.raises(ValueError, match=r"n_folds must be 2 or more.*got 1"):
        make_folds(ids, seed=0, n_folds=1)
    with pytest.raises(ValueError, match=r"test must be a share.*got 1\. Try 0\.2"):
        make_folds(ids, seed=0, test=1)
    with pytest.raises(ValueError, match=r"folds must be 2 or more; got 1\. Use make_split"):
        Folds(folds=(("a",),), test=())
    with pytest.raises(FileNotFoundError, match=r"make_folds\(\.\.\.\)\.save"):
        Folds.load(tmp_path / "folds.json")
