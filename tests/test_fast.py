"""Promise: loading straight into the prepared form gives what loading, then preparing, gives."""

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import load_scan
from bratskit.preprocess import prepare_scan
from bratskit.preprocess.fast import load_prepared
from bratskit.settings import Recipe

SHAPE = (24, 28, 20)
ROUNDING = 4e-6  # of float32, on z-scores up to about ten
NATIVE = Recipe(name="test")


def assert_same(case, recipe=NATIVE, **settings):
    """Compare both ways through one case."""
    fast, slow = load_prepared(case, recipe, **settings), prepare_scan(load_scan(case), recipe)
    np.testing.assert_allclose(fast.image, slow.image, rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(fast.labels, slow.labels)
    np.testing.assert_array_equal(fast.mask, slow.mask)
    assert (fast.id, fast.geometry, fast.modalities) == (slow.id, slow.geometry, slow.modalities)
    assert fast.image.dtype == np.float32
    assert all(part.flags.c_contiguous for part in (fast.image, fast.labels, fast.mask))


@pytest.fixture
def case(write_case, tmp_path):
    return write_case(tmp_path, shape=SHAPE)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">f4"])
def test_every_type_of_file_gives_the_same_numbers(case, rng, dtype):
    kind = np.dtype(dtype)
    for path in case.paths.values():
        values = np.asarray(nib.load(path).dataobj) // 4
        values = values - 30 * (values > 0) if kind.kind == "i" else values
        file = nib.Nifti1Image(values.astype(kind), nib.load(path).affine)
        if kind.byteorder == ">":
            file = nib.Nifti1Image(
                values.astype(kind), file.affine, file.header.as_byteswapped(">")
            )
        nib.save(file, path)
        assert nib.load(path).header.get_data_dtype() == kind
    assert_same(case)
