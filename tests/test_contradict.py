"""Promise that a wrong label schema is stopped by what the images show, and a right one never."""

import json

import numpy as np
import pytest

from bratskit.cases import find_contradiction, read_evidence
from bratskit.cases.evidence import PERMUTATIONS, Evidence
from bratskit.labels import MODALITIES

# Intensity of background, brain, NCR, ED, ET, fluid; the brain's own spread is about 30.
SHOWN = {
    "flair": (0, 300, 380, 400, 400, 210),
    "t1": (0, 300, 280, 300, 295, 250),
    "t1ce": (0, 300, 280, 295, 390, 240),
    "t2": (0, 300, 420, 370, 380, 440),
}
WRONG = PERMUTATIONS[1:]


def head(rng, *, without=(), fluid=False):
    """Draw a 36^3 head with three nested balls: ED around ET around NCR; internal labels."""
    i, j, k = np.mgrid[:36, :36, :36] - 17.5
    radius = np.sqrt((i - 3) ** 2 + j**2 + k**2)
    labels = np.select([radius < 4, radius < 6, radius < 10], [1, 3, 2], 0).astype(np.uint8)
    for tissue, stand_in in without:
        labels[labels == tissue] = stand_in
    shown = np.where((i**2 + j**2 + k**2 < 17**2) | (labels > 0), labels + 1, 0)
    if fluid:
        shown[labels == 3] = 5
    image = {name: np.array(SHOWN[name])[shown].astype(np.float32) for name in MODALITIES}
    for channel in image.values():
        channel[shown > 0] += rng.normal(0, 20, int((shown > 0).sum()))
    return image, labels


def permuted(labels, permutation):
    """Write masks in which integer p + 1 stands for the tissue that permutation[p] names."""
    lookup = np.zeros(4, np.uint8)
    lookup[list(permutation)] = (1, 2, 3)
    return lookup[labels]


def evidence_of(rng, *, n=3, permutation=PERMUTATIONS[0], **drawn):
    heads = [head(rng, **drawn) for _ in range(n)]
    return [
        read_evidence(f"case{i}", image, permuted(labels, permutation))
        for i, (image, labels) in enumerate(heads)
    ]


def test_the_right_schema_is_not_contradicted(rng):
    assert find_contradiction(evidence_of(rng, n=4), schema="brats2023-gli") is None


@pytest.mark.parametrize("permutation", WRONG, ids=str)
def test_any_two_or_three_labels_exchanged_are_found_and_named(rng, permutation):
    found = find_contradiction(evidence_of(rng, permutation=permutation), schema="brats2023-gli")
    assert found.permutation == permutation


def test_masks_of_the_decathlon_read_as_brats_2023_point_to_the_decathlon(rng):
    found = find_contradiction(evidence_of(rng, permutation=(2, 1, 3)), schema="brats2023-gli")
    assert found.candidates == ("msd-task01",)
    assert "1 (NCR) that looks like ED" in found.message
    assert "Declare schema='msd-task01'" in found.message


def test_one_case_alone_never_decides(rng):
    one = evidence_of(rng, n=1, permutation=(1, 3, 2))
    assert one[0].fits.index(max(one[0].fits)) == 1
    assert find_contradiction(one, schema="brats2023-gli") is None


def test_a_cavity_read_as_enhancing_tumour_is_stopped(rng):
    found = find_contradiction(evidence_of(rng, fluid=True), schema="brats2017-2021")
    assert "label 4" in found.message
    assert "does not look like enhancing tumour" in found.message
    assert "brats2024-gli" in found.candidates


def test_evidence_survives_json(rng):
    (item,) = evidence_of(rng, n=1)
    assert Evidence.from_dict(json.loads(json.dumps(item.to_dict()))) == item
