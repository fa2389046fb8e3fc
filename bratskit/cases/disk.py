"""Open a file of a case with nibabel, as it lies on disk, whatever its edition's layout."""

from pathlib import Path

import nibabel as nib

from bratskit.cases.case import Case
from bratskit.cases.mha import is_mha, read_mha

__all__ = ["open_nifti"]


def open_nifti(case: Case, kind: str) -> nib.Nifti1Image:
    """Open one volume of a case in the order of its file, nothing turned, nothing read yet.

    Where the edition has a file for each modality this is `nibabel.load`; of MSD's 4D file it is
    the one channel, and of a MetaImage (BraTS 2012-2015) what a NIfTI file would have held.

    Args:
        case: Files of one patient.
        kind: A modality, or "labels" for the expert mask.

    Raises:
        FileNotFoundError: The case has no such file.
    """
    path = case.labels_path if kind == "labels" else case.paths.get(kind)
    if path is None:
        msg = f"kind must be a file of case {case.id}; got {kind!r}. It has {sorted(case.paths)}."
        raise FileNotFoundError(msg)
    path = Path(path)
    if is_mha(path):
        values, header, affine = read_mha(path, f"{path.name} of case {case.id}")
        return nib.Nifti1Image(values, affine, header)
    image = nib.load(path)
    return image.slicer[..., case.channels[kind]] if kind in case.channels else image
