"""A scan is known again however it was stored, and two patients are not taken for one."""

import json
from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage

from bratskit.cases import find_cases, load_scan, make_phantom
from bratskit.cases.duplicates import (
    LOOK_ALIKE,
    Fingerprint,
    find_duplicates,
    fingerprint,
)
from bratskit.labels import MODALITIES


@pytest.fixture(scope="module")
def images():
    return [make_phantom((5, i), spacing_mm=(3.4, 3.4, 3.4)).scan.image for i in range(3)]


@pytest.fixture(scope="module")
def prints(images):
    return [fingerprint(f"p{i}", image) for i, image in enumerate(images)]


def only_pair(*prints):
    (found,) = find_duplicates(prints)
    return found


STORED = {
    "int16": lambda image: image.astype(np.int16),
    "float64": lambda image: image.astype(np.float64),
    "disk order of another file": lambda image: np.asfortranarray(image),
    "cropped": lambda image: image[:, 3:-2, 2:-4, 1:],
    "padded": lambda image: np.pad(image, ((0, 0), (4, 0), (1, 9), (2, 2))),
    "minus zero": lambda image: np.where(image == 0, np.float32(-0.0), image),
    "by name": lambda image: dict(zip(MODALITIES, image, strict=True)),
}


@pytest.mark.parametrize("how", STORED)
def test_same_voxels_hash_alike_however_they_are_stored(images, prints, how):
    again = fingerprint("again", STORED[how](images[0]))
    assert again.voxels == prints[0].voxels
    found = only_pair(prints[0], prints[1], again)
    assert (found.first, found.second, found.what) == ("p0", "again", "same voxels")
    assert found.modality == "flair, t1, t1ce, t2"
    assert found.correlation == pytest.approx(1, abs=2e-3)


def bias(image):
    return image * np.linspace(0.8, 1.2, image.shape[1], dtype=np.float32)[:, None, None]


def quantised(image):
    top = image.max(axis=(1, 2, 3), keepdims=True)
    return np.round(image / top * 255).astype(np.uint8)


ALTERED = {
    "another scale": lambda image: image * np.float32(7.3),
    "another scale and offset": lambda image: image * np.float32(0.01) - 3,
    "uint8": quantised,
    "bias field": bias,
    "noise": lambda image: (
        image + (image != 0) * np.random.default_rng(0).normal(0, 20, image.shape)
    ),
    "twice the spacing": lambda image: image[:, ::2, ::2, ::2],
    "shifted by 1 mm": lambda image: ndimage.shift(image, (0, 0.3, 0.0, 0.3), order=1),
    "one stray voxel": lambda image: (
        np.pad(image, ((0, 0), (9, 9), (9, 9), (9, 9)))
        + np.pad(
            np.ones((4, 1, 1, 1), np.float32), [(0, 0)] + [(5, n + 12) for n in image.shape[1:]]
        )
    ),
}


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_copy_looks_alike(images, prints, how):
    again = fingerprint("again", ALTERED[how](images[0]))
    found = only_pair(*prints, again)
    assert (found.first, found.second, found.what) == ("p0", "again", "look-alike")
    assert found.correlation > LOOK_ALIKE + 0.05


def test_phantoms_of_one_anatomy_are_not_taken_for_one(prints):
    assert find_duplicates(prints) == []
    strict = [
        np.mean(np.sum(a.look.astype(float) * b.look, axis=1)) for a, b in combinations(prints, 2)
    ]
    assert max(strict) < LOOK_ALIKE - 0.1


def test_one_shared_modality_is_named(images, prints):
    mixed = images[1].copy()
    mixed[1] = images[0][1]
    found = find_duplicates([*prints, fingerprint("mixed", mixed)])
    assert [(item.first, item.what, item.modality) for item in found] == [
        ("p0", "same voxels", "t1"),
        ("p1", "same voxels", "flair, t1ce, t2"),
    ]
    assert found[0].correlation < found[1].correlation
    assert str(found[0]).startswith("p0 and mixed have the same voxels in t1 (r = 0.")


def test_modalities_that_only_one_has_do_not_count(images, prints):
    some = {"t1": images[0][1] * np.float32(2), "t2": images[0][3] * np.float32(2)}
    assert only_pair(*prints, fingerprint("some", some)).modality == "t1, t2"


def test_empty_scans_are_not_each_others_duplicates():
    empty = np.zeros((4, 6, 6, 6), np.int16)
    assert find_duplicates([fingerprint("a", empty), fingerprint("b", empty)]) == []


def test_nan_leaves_a_usable_look(images, prints):
    holed = images[0].copy()
    holed[2, 35, 35, 22] = np.nan
    found = only_pair(prints[0], fingerprint("holed", holed))
    assert found.modality == "flair, t1, t2"
    assert found.correlation > 0.99


def test_fingerprint_comes_back_from_json(prints):
    text = json.dumps(prints[0].to_dict())
    back = Fingerprint.from_dict(json.loads(text))
    assert back == prints[0]
    assert np.array_equal(back.look, prints[0].look)
    assert len(text) < 20_000


def test_pairs_are_found_across_blocks_as_by_hand():
    rng = np.random.default_rng(1)
    looks = rng.normal(size=(600, 4, 12**3))
    looks[599] = looks[3]
    looks /= np.linalg.norm(looks, axis=2, keepdims=True)
    prints = [
        Fingerprint(case=str(i), voxels={}, look=look.astype(np.float16))
        for i, look in enumerate(looks)
    ]
    found = only_pair(*prints)
    assert (found.first, found.second) == ("3", "599")


def test_unknown_modalities_and_grids_that_differ_are_refused(images):
    with pytest.raises(
        ValueError, match=r"case a must be flair, t1, t1ce, t2 on one 3D grid; got t3"
    ):
        fingerprint("a", {"t3": images[0][0]})
    with pytest.raises(ValueError, match=r"Take load_scan\(case\)\.image"):
        fingerprint("a", {"t1": images[0][0], "t2": images[0][1][1:]})


@pytest.mark.slow
def test_real_patients_differ_and_their_copies_do_not(real_cases):
    scans = [load_scan(case).image for case in find_cases(real_cases)[::3]]
    prints = [fingerprint(str(i), image) for i, image in enumerate(scans)]
    assert find_duplicates(prints) == []
    for at, image in enumerate(scans[:4]):
        for alter in (quantised, bias, ALTERED["twice the spacing"]):
            found = only_pair(*prints, fingerprint("copy", alter(image)))
            assert found.first == str(at)
            assert found.correlation > 0.9
