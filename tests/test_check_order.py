"""Modalities under each other's names are told, and blamed on the names, not on the mask."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import (
    check_case,
    check_folder,
    doctor,
    find_cases,
    make_cohort,
    make_phantom,
    write_phantom,
)
from bratskit.cases.order import ORDERS, OrderFits, describe_order, read_order
from bratskit.labels import MODALITIES

SPACING_MM = (4.0, 4.0, 4.0)
EXCHANGES = [
    {"t1": "t2", "t2": "t1"},
    {"flair": "t1", "t1": "flair"},
    {"flair": "t1ce", "t1ce": "flair"},
    {"t1": "t1ce", "t1ce": "t1"},
    {"t1": "t1ce", "t1ce": "t1", "flair": "t2", "t2": "flair"},
    {"flair": "t1", "t1": "t2", "t2": "flair"},
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Return four phantoms of 60 x 60 x 39 voxels; read-only."""
    folder = tmp_path_factory.mktemp("cohort")
    return make_cohort(folder, n_cases=4, seed=7, spacing_mm=SPACING_MM, workers=1)


def exchange(case, held):
    paths = {name: case.paths[held.get(name, name)] for name in case.paths}
    return replace(case, paths=paths)


def told_by_cohort(cases):
    (rows,) = doctor._examine_all([cases], ["cohort"], workers=1, journal=None)
    judged = doctor.defer_places(rows, cases[0].schema, stopped=False)
    told = [finding for each in judged for finding in each]
    told += doctor.check_cohort(["cohort"], [rows], [cases[0].schema])
    return [one for one in told if one.severity != "note"]


@pytest.mark.parametrize("held", EXCHANGES, ids=lambda held: "-".join(held))
def test_an_exchange_over_a_cohort_is_one_problem_that_names_the_order(cases, held):
    (finding,) = told_by_cohort([exchange(case, held) for case in cases])
    assert (finding.kind, finding.severity) == ("exchanged", "problem")
    for name, other in held.items():
        assert f"{name} holds {other}" in finding.what


def test_named_rightly_a_cohort_has_nothing_to_tell(cases):
    assert told_by_cohort(cases) == []


def test_an_exchange_in_one_case_blames_the_names_and_not_the_mask(cases):
    kinds = [
        {one.kind for one in check_case(exchange(case, EXCHANGES[1])) if one.severity != "note"}
        for case in cases
    ]
    assert kinds == [{"swapped"}] * len(cases)


def test_a_dataset_json_with_two_names_exchanged_is_a_problem(tmp_path):
    for seed in range(4):
        phantom = make_phantom(seed, spacing_mm=SPACING_MM)
        write_phantom(phantom, tmp_path, edition="msd-task01")
    listing = tmp_path / "dataset.json"
    content = json.loads(listing.read_text())
    names = {"FLAIR": "T1w", "T1w": "FLAIR"}
    content["modality"] = {at: names.get(n, n) for at, n in content["modality"].items()}
    listing.write_text(json.dumps(content))
    findings = check_folder(tmp_path, schema="msd-task01")
    (finding,) = (one for one in findings if one.severity == "problem")
    assert "flair holds t1, t1 holds flair" in finding.what
    assert "dataset.json" in finding.mend


def test_a_moved_mask_is_still_the_masks_fault(cases):
    for case in cases:
        labels = nib.load(case.labels_path)
        moved = np.flip(np.asarray(labels.dataobj), 0).copy()
        path = case.labels_path.with_name("moved_seg.nii.gz")
        nib.save(nib.Nifti1Image(moved, labels.affine, labels.header), path)
        kinds = {one.kind for one in check_case(replace(case, labels_path=path))}
        path.unlink()
        assert "mask-place" in kinds
        assert "swapped" not in kinds


def test_orders_of_an_exchanged_image_are_those_of_the_image_exchanged(cases):
    images = [nib.load(cases[0].paths[name]).get_fdata() for name in MODALITIES]
    brain = np.any([image != 0 for image in images], axis=0)
    fits = dict(zip(ORDERS, read_order(images, brain, None).brain, strict=True))
    turned = [images[i] * 3 + 7 for i in (1, 2, 3, 0)]
    again = dict(zip(ORDERS, read_order(turned, brain, None).brain, strict=True))
    for order in ORDERS:
        assert again[order] == pytest.approx(fits[tuple((i + 1) % 4 for i in order)], abs=0.02)


def test_noise_and_flat_images_have_no_order(rng):
    noise = list(rng.normal(size=(4, 16, 16, 16)))
    assert read_order(noise, np.ones((16, 16, 16), bool), None) is None
    flat = [np.ones((16, 16, 16))] * 4
    assert read_order(flat, np.ones((16, 16, 16), bool), None) is None


def test_fits_survive_json_and_are_told_in_words():
    fits = OrderFits(brain=tuple(range(24)), tumour=(0.5,) * 24)
    assert OrderFits.from_dict(json.loads(json.dumps(fits.to_dict()))) == fits
    assert fits.gains.tolist() == list(range(24))
    assert describe_order(0) == ("", ())


@pytest.mark.slow
@pytest.mark.parametrize("held", [{}, *EXCHANGES], ids=lambda held: "-".join(held) or "none")
def test_an_exchange_over_real_cases_is_told_and_nothing_else(real_cases, held):
    real = find_cases(real_cases)
    findings = told_by_cohort([exchange(case, held) for case in real])
    assert {one.kind for one in findings} == ({"slab", "exchanged"} if held else {"slab"})
