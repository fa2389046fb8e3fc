"""Show 3: a mask says of its grid what the scan's file says, field by field, however it lies."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from bratskit.cases import Case, load_labels, make_phantom
from bratskit.cases.layouts import layout_of
from bratskit.cases.phantoms import write_phantom
from bratskit.labels import MODALITIES, SCHEMAS, get_schema
from bratskit.networks import Checkpoint
from bratskit.predict import predict_folder
from bratskit.settings import GeometrySettings, Recipe, TrainingSettings

# What a label map cannot share with an image: the type of its numbers, their scale and display.
OWN = {"datatype", "bitpix", "scl_slope", "scl_inter", "cal_max", "cal_min", "vox_offset"}


class Oracle(nn.Module):
    """Say label c where channel c is bright."""

    def forward(self, image):
        """Turn brightness into certainty."""
        return 20 * image


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    recipe = Recipe(
        name="test",
        geometry=GeometrySettings(spacing_mm=None),
        training=TrainingSettings(precision="fp32"),
    )
    path = tmp_path_factory.mktemp("model")
    return Checkpoint(
        network=Oracle(), recipe=recipe, card={}, training=None, path=path, checksum="oracle"
    )


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(5, spacing_mm=(6.0, 7.0, 8.0), case_id="pat7")


@pytest.mark.parametrize("edition", SCHEMAS)
def test_the_mask_has_the_header_of_the_image_in_every_edition(phantom, model, tmp_path, edition):
    case = replace(write_phantom(phantom, tmp_path / "in", edition=edition), labels_path=None)
    (path,) = predict_folder([case], tmp_path / "out", model=model, edition=edition, doubts="trust")
    mask = nib.load(path)
    assert set(np.unique(np.asarray(mask.dataobj))) <= set(get_schema(edition).to_source.values())
    assert np.asarray(mask.dataobj).dtype == np.uint8
    if layout_of(case.schema) == "vsd":  # a MetaImage has no such fields: the grid is compared
        image = SimpleITK.ReadImage(str(case.paths["flair"]))
        again = SimpleITK.ReadImage(str(path))
        assert again.GetSize() == image.GetSize()
        for get in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(again, get)(), getattr(image, get)(), atol=1e-4)
        return
    header = nib.load(case.paths["flair"]).header
    for name in set(header) - OWN - ({"dim"} if case.channels else set()):
        np.testing.assert_array_equal(mask.header[name], header[name], err_msg=name)
    assert mask.shape == header.get_data_shape()[:3]


def some_affine(seed, spacing_mm):
    """Draw an orientation: any rotation, mirrored or not, so axes in any order on disk."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing_mm
    affine[:3, 3] = rng.uniform(-120, 120, 3)
    return affine


def write_oblique(folder, labels, affine, codes):
    """Write a phantom whose channel c lights up where the label is c, with a telling header."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for channel, name in enumerate(MODALITIES):
        array = np.where(labels == channel, 300, 100).astype(np.int16)
        array[:2] = 0  # a side without brain
        file = nib.Nifti1Image(array, affine)
        file.set_qform(affine, code=codes[0])
        file.set_sform(affine, code=codes[1])
        file.header.set_xyzt_units("mm", "sec")
        file.header["descrip"] = b"scanner 7, oblique"
        file.header["aux_file"] = b"pat7"
        paths[name] = folder / f"pat7_{name}.nii.gz"
        nib.save(file, paths[name])
    return Case(id="pat7", paths=paths, labels_path=None, schema=get_schema("brats2023-gli"))


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    seed=st.integers(0, 10_000),
    spacing_mm=st.tuples(*[st.floats(0.5, 6)] * 3),
    codes=st.sampled_from([(1, 1), (2, 4), (0, 2)]),
)
def test_a_random_oblique_phantom_is_labelled_in_its_own_grid(
    phantom, model, tmp_path_factory, seed, spacing_mm, codes
):
    folder = tmp_path_factory.mktemp("oblique")
    labels = phantom.scan.labels.copy()
    labels[:2] = 0
    case = write_oblique(folder / "in", labels, some_affine(seed, spacing_mm), codes)
    (path,) = predict_folder(
        [case], folder / "out", model=model, edition="brats2023-gli", doubts="trust"
    )
    mask, image = nib.load(path), nib.load(case.paths["flair"])
    np.testing.assert_array_equal(np.asarray(mask.dataobj), labels)  # the order of the disk
    np.testing.assert_array_equal(mask.affine, image.affine)
    for name in set(image.header) - OWN:
        np.testing.assert_array_equal(mask.header[name], image.header[name], err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_seen_by_the_network_on_cubes_it_still_comes_back_onto_its_own_grid(
    phantom, model, tmp_path, seed
):
    labels = phantom.scan.labels.copy()
    labels[:2] = 0
    case = write_oblique(tmp_path / "in", labels, some_affine(seed, (2.0, 2.5, 3.0)), (1, 1))
    recipe = replace(model.recipe, geometry=GeometrySettings(spacing_mm=(1.5, 1.5, 1.5)))
    (path,) = predict_folder(
        [case],
        tmp_path / "out",
        model=replace(model, recipe=recipe),
        edition="brats2023-gli",
        doubts="trust",
    )
    found = np.asarray(nib.load(path).dataobj) > 0
    middles = [np.argwhere(mask).mean(axis=0) for mask in (found, labels > 0)]
    np.testing.assert_allclose(*middles, atol=0.5)  # voxels: this oracle swells, it never moves
    assert found[labels > 0].all()
    again, affine = load_labels(path, schema="brats2023-gli")
    assert again.size == labels.size
    assert np.linalg.det(affine[:3, :3]) > 0
