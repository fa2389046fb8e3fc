"""Promise: a volume of a case opens in nibabel as it lies on disk, whatever the layout."""

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import load_scan, make_cohort, open_nifti
from bratskit.labels import MODALITIES


@pytest.mark.parametrize(
    "edition", ["brats2017-2021", "brats2023-gli", "msd-task01", "brats2012-2015"]
)
def test_every_layout_shows_the_voxels_and_the_place_that_loading_turns_to_ras(tmp_path, edition):
    (case,) = make_cohort(
        tmp_path, n_cases=1, spacing_mm=(9.0, 10.0, 8.0), edition=edition, workers=1
    )
    scan = load_scan(case)
    for modality, expected in zip(MODALITIES, scan.image, strict=True):
        turned = nib.as_closest_canonical(open_nifti(case, modality))
        assert turned.ndim == 3
        np.testing.assert_array_equal(turned.get_fdata(), expected)
        np.testing.assert_allclose(turned.affine, scan.affine, atol=1e-4)
    stored = np.asarray(open_nifti(case, "labels").dataobj)
    assert set(np.unique(stored)) <= set(case.schema.to_internal)


def test_a_file_that_the_case_has_not_is_refused_naming_what_it_has(write_case, tmp_path):
    case = write_case(tmp_path, labels=None)
    with pytest.raises(FileNotFoundError, match=r"got 'labels'\. It has \['flair', 't1'"):
        open_nifti(case, "labels")
