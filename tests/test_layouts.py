"""Show 1: a patient in each edition is found, mapped, predicted back and rewritten as it came."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from bratskit.cases import find_cases, load_labels, load_scan, make_phantom, write_labels
from bratskit.cases.layouts import file_of, layout_of
from bratskit.cases.phantoms import make_cohort, write_phantom
from bratskit.cases.write import list_cases, write_scan
from bratskit.labels import LABELS, SCHEMAS, get_schema
from bratskit.predict import folder as predict_folder_module
from bratskit.predict import predict_folder
from bratskit.preprocess.cohort import _settings
from bratskit.settings import get_recipe

COARSE = (6.0, 7.0, 8.0)  # 40x34x19 voxels; three spacings, so that a swap of axes shows
EDITIONS = pytest.mark.parametrize("edition", SCHEMAS)


@pytest.fixture(scope="module")
def phantom():
    made = make_phantom(5, spacing_mm=COARSE, case_id="pat7")
    assert set(np.unique(made.scan.labels)) == set(LABELS)  # all tissues take part
    return made


@pytest.fixture(scope="module")
def written(phantom, tmp_path_factory):
    """Write the phantom once in each edition; treat the folders as read-only."""
    root = tmp_path_factory.mktemp("editions")
    return {name: write_phantom(phantom, root / name, edition=name) for name in SCHEMAS}


def stored(path: Path) -> np.ndarray:
    """Read the integers of a file as another library sees them, in the order of the file."""
    if path.suffix == ".mha":
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T
    return np.asarray(nib.load(path).dataobj)


def header_of(path: Path) -> bytes | list[bytes]:
    """Return every field of a header."""
    if path.suffix == ".mha":
        raw = path.read_bytes()
        lines = raw[: raw.index(b"LOCAL")].splitlines()
        return [line for line in lines if not line.startswith(b"CompressedDataSize")]
    return nib.load(path).header.binaryblock


@EDITIONS
def test_it_is_found_under_the_names_of_its_edition(written, edition):
    case = written[edition]
    root = case.labels_path.parents[{"vsd": 2, "decathlon": 1}.get(layout_of(case.schema), 1)]
    (found,) = find_cases(root, schema=edition, require_labels=True)
    assert found == case


@EDITIONS
def test_it_is_mapped_to_the_same_image_and_internal_labels(written, phantom, edition):
    scan = load_scan(written[edition])
    np.testing.assert_array_equal(scan.image, phantom.scan.image)
    np.testing.assert_array_equal(scan.labels, phantom.scan.labels)
    np.testing.assert_allclose(scan.affine, phantom.scan.affine, atol=1e-4)


@EDITIONS
def test_it_is_rewritten_label_for_label_with_every_header_field(written, tmp_path, edition):
    case = written[edition]
    scan = load_scan(case)
    again = write_labels(scan.labels, tmp_path / case.labels_path.name, like=scan)
    np.testing.assert_array_equal(stored(again), stored(case.labels_path))
    assert stored(again).dtype == stored(case.labels_path).dtype
    assert header_of(again) == header_of(case.labels_path)
    assert set(np.unique(stored(again))) == set(get_schema(edition).to_source.values())


@EDITIONS
def test_an_oracles_prediction_is_the_mask_it_never_saw(
    written, phantom, tmp_path, monkeypatch, edition
):
    def oracle(network, scan, recipe, **options):
        assert scan.labels is None
        return SimpleNamespace(labels=phantom.scan.labels, volumes=None)

    monkeypatch.setattr(predict_folder_module, "predict_scan", oracle)
    model = SimpleNamespace(checksum="oracle", recipe=get_recipe("smoke"), network=None)
    case = written[edition]
    home = case.labels_path.parents[2 if layout_of(case.schema) == "vsd" else 1]
    bare = find_cases(home, schema=edition, use_labels=False)
    assert bare[0].labels_path is None
    (path,) = predict_folder(bare, tmp_path, model=model, edition=edition, device="cpu")
    np.testing.assert_array_equal(stored(path), stored(case.labels_path))
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, load_scan(case).disk_affine, atol=1e-4)
    assert image.header["dim"].tolist() == [3, *phantom.scan.labels.shape, 1, 1, 1, 1]
    labels, _ = load_labels(path, schema=edition)
    np.testing.assert_array_equal(labels, phantom.scan.labels)


@pytest.mark.parametrize("other", SCHEMAS)
@EDITIONS
def test_any_edition_is_rewritten_as_any_other(written, tmp_path, edition, other):
    scan = load_scan(written[edition], threads=1)
    path = write_labels(scan.labels, tmp_path / "mask.nii", like=scan, edition=other)
    np.testing.assert_array_equal(stored(path), stored(written[other].labels_path))


def with_mask(case, tmp_path: Path, mask: np.ndarray) -> Path:
    """Copy a case's folder and give it another mask, values as given."""
    home = shutil.copytree(case.labels_path.parent, tmp_path / case.id)
    old = nib.load(case.labels_path)
    nib.save(
        nib.Nifti1Image(mask.astype(np.uint8), old.affine, old.header), home / case.labels_path.name
    )
    return home


def test_a_resection_cavity_is_background_and_nothing_else_becomes_one(written, tmp_path):
    case = written["brats2024-gli"]
    mask = stored(case.labels_path).copy()
    mask[2:5, 3:6, 4:7] = 4
    (found,) = find_cases(with_mask(case, tmp_path, mask), schema="brats2024-gli")
    scan = load_scan(found)
    assert (scan.labels == 0).sum() == np.isin(mask, (0, 4)).sum()
    again = stored(write_labels(scan.labels, tmp_path / "again.nii.gz", like=scan))
    np.testing.assert_array_equal(again, np.where(mask == 4, 0, mask))


def test_a_cavity_is_never_enhancing_tumour_under_another_schema(written, tmp_path):
    case = written["brats2024-gli"]
    mask = stored(case.labels_path).copy()
    mask[2:5, 3:6, 4:7] = 4
    home = with_mask(case, tmp_path, mask)
    for wrong in ("brats2023-gli", "brats2017-2021", "msd-task01"):
        (found,) = find_cases(home, schema=wrong)
        with pytest.raises(ValueError, match=r"pat7-seg.* \(case pat7\).*got \[[34]\].*2024-gli"):
            load_scan(found)


def test_a_cyst_is_core_and_is_written_as_what_is_declared_first(written, tmp_path):
    case = written["brats2024-ped"]
    mask = stored(case.labels_path).copy()
    core = np.argwhere(mask == 2)
    cyst = tuple(core[: len(core) // 2].T)
    mask[cyst] = 3
    (found,) = find_cases(with_mask(case, tmp_path, mask), schema="brats2024-ped")
    scan = load_scan(found)
    assert (scan.labels == 1).sum() == len(core)
    again = stored(write_labels(scan.labels, tmp_path / "again.nii.gz", like=scan))
    assert (mask[cyst] == 3).all()
    np.testing.assert_array_equal(again, stored(case.labels_path))


def test_a_name_that_fits_another_edition_is_a_hint_in_the_refusal(write_case, tmp_path):
    labels = np.zeros((6, 7, 5), np.uint8)
    labels[2, 2, :4] = (1, 2, 3, 4)
    case_id = "BraTS-PED-00181-000"
    write_case(tmp_path, case_id, shape=labels.shape, labels=labels)
    (case,) = find_cases(tmp_path)
    hint = r"got \[3\].*Its name is one of brats2023-gli or brats2024-ped\."
    with pytest.raises(ValueError, match=hint):
        load_scan(case)
    (case,) = find_cases(tmp_path, schema="brats2024-ped")
    assert set(np.unique(load_scan(case).labels)) == set(LABELS)


def test_msd_lists_what_stands_there(written):
    root = written["msd-task01"].labels_path.parents[1]
    listing = json.loads((root / "dataset.json").read_text())
    assert listing["training"] == [
        {"image": "./imagesTr/pat7.nii.gz", "label": "./labelsTr/pat7.nii.gz"}
    ]
    assert listing["labels"] == {
        "0": "background",
        "1": "edema",
        "2": "non-enhancing tumor",
        "3": "enhancing tumour",
    }
    assert nib.load(root / "imagesTr" / "pat7.nii.gz").shape[3] == 4


@pytest.mark.parametrize("edition", ["msd-task01", "brats2012-2015", "brats2024-ped"])
def test_a_cohort_in_any_layout_goes_on_where_it_stopped(tmp_path, edition):
    words = {"spacing_mm": (10.0, 10.0, 10.0), "workers": 1, "edition": edition}
    first = make_cohort(tmp_path, n_cases=1, **words)
    before = first[0].labels_path.stat().st_mtime_ns
    cases = make_cohort(tmp_path, n_cases=2, **words)
    assert first[0].labels_path.stat().st_mtime_ns == before
    assert find_cases(tmp_path, schema=edition, require_labels=True) == cases


def test_a_half_written_case_is_made_again(tmp_path):
    words = {"n_cases": 1, "spacing_mm": (10.0, 10.0, 10.0), "workers": 1}
    (case,) = make_cohort(tmp_path, edition="msd-task01", **words)
    whole = case.paths["t1"].read_bytes()
    case.paths["t1"].unlink()  # as a kill before the last step leaves it
    (tmp_path / "imagesTr" / ".99-Phantom_00000.nii.gz").write_bytes(whole[:50])
    make_cohort(tmp_path, edition="msd-task01", **words)
    assert case.paths["t1"].read_bytes() == whole
    assert [path.name for path in (tmp_path / "imagesTr").iterdir()] == ["Phantom_00000.nii.gz"]


def test_two_editions_do_not_mix_in_one_folder(tmp_path):
    words = {"n_cases": 1, "spacing_mm": (10.0, 10.0, 10.0), "workers": 1}
    make_cohort(tmp_path, edition="msd-task01", **words)
    with pytest.raises(ValueError, match="has edition msd-task01, not brats2023-met"):
        make_cohort(tmp_path, edition="brats2023-met", **words)


@pytest.mark.slow
def test_killed_while_an_msd_cohort_is_made_the_listing_names_whole_cases_only(tmp_path):
    script = (
        "from bratskit.cases import make_cohort\n"
        f"make_cohort({str(tmp_path)!r}, n_cases=6, spacing_mm=(8, 8, 8), workers=1, "
        "edition='msd-task01')"
    )
    child = subprocess.Popen([sys.executable, "-c", script], env=os.environ)
    images = tmp_path / "imagesTr"
    while not (images.is_dir() and len(list(images.glob("[!.]*"))) >= 2):
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    listing = json.loads((tmp_path / "dataset.json").read_text())
    for row in listing["training"]:
        for name in row.values():
            gzip.decompress((tmp_path / name).read_bytes())
    found = find_cases(tmp_path, schema="msd-task01", require_labels=True)
    assert 2 <= len(found) < 6
    for case in found:
        load_scan(case)
    cases = make_cohort(
        tmp_path, n_cases=6, spacing_mm=(8.0, 8.0, 8.0), workers=1, edition="msd-task01"
    )
    assert find_cases(tmp_path, schema="msd-task01") == cases
    assert len(json.loads((tmp_path / "dataset.json").read_text())["training"]) == 6


def test_an_edition_of_ones_own_is_laid_out_as_2017():
    own = get_schema("msd-task01").__class__(name="mine", to_internal={0: 0, 7: 3}, tissue={})
    assert file_of("a", "seg", layout_of(own)).as_posix() == "a/a_seg.nii.gz"


def test_a_prepared_msd_case_is_made_again_when_image_mask_or_listing_changes(tmp_path):
    words = {"spacing_mm": (10.0, 10.0, 10.0), "workers": 1, "edition": "msd-task01"}
    (case,) = make_cohort(tmp_path, n_cases=1, **words)
    settings = [_settings(case, get_recipe("smoke"))]
    for path in (case.paths["t1"], case.labels_path):
        os.utime(path, (1, 1))
        settings.append(_settings(case, get_recipe("smoke")))
    turned = dict(zip(case.channels, reversed(case.channels.values()), strict=True))
    settings.append(_settings(replace(case, channels=turned), get_recipe("smoke")))
    assert len({json.dumps(one) for one in settings}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("edition", ["brats2012-2015", "brats2024-ped", "msd-task01"])
def test_a_real_patient_is_the_same_in_every_layout(real_cases, tmp_path, edition):
    (case,) = find_cases(real_cases / "BraTS2021_00000")
    scan = load_scan(case)
    write_scan(scan, tmp_path, edition=get_schema(edition), facts={})
    list_cases(tmp_path, get_schema(edition))
    (found,) = find_cases(tmp_path, schema=edition, require_labels=True)
    again = load_scan(found)
    np.testing.assert_array_equal(again.image, scan.image)
    np.testing.assert_array_equal(again.labels, scan.labels)
    back = write_labels(again.labels, tmp_path / "back.nii.gz", like=scan)
    np.testing.assert_array_equal(stored(back), stored(case.labels_path))
    assert header_of(back) == header_of(case.labels_path)


@pytest.mark.parametrize("edition", ["brats2012-2015", "brats2023-gli", "msd-task01"])
def test_numbers_that_int16_does_not_have_are_refused_and_nothing_is_left(
    phantom, tmp_path, edition
):
    image = phantom.scan.image.copy()
    image[2, 3, 3, 3] += 0.5
    with pytest.raises(ValueError, match=r"image of case pat7 .*got others in t1ce"):
        write_scan(
            replace(phantom.scan, image=image), tmp_path, edition=get_schema(edition), facts={}
        )
    with pytest.raises(ValueError, match="must hold at least one case"):
        find_cases(tmp_path)


def test_the_test_images_of_an_msd_task_are_left_out_where_masks_are_wanted(tmp_path):
    words = {"spacing_mm": (10.0, 10.0, 10.0), "workers": 1, "edition": "msd-task01"}
    first, second = make_cohort(tmp_path, n_cases=2, **words)
    image, mask = second.paths["flair"], second.labels_path
    (tmp_path / "imagesTs").mkdir()
    image.rename(tmp_path / "imagesTs" / image.name)
    mask.unlink()
    assert len(find_cases(tmp_path, schema="msd-task01")) == 2
    assert find_cases(tmp_path, schema="msd-task01", require_labels=True) == [first]
