"""Write MSD tasks and BraTS 2015 folders by hand, for the tests of the readers of both."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK

AFFINE = np.array([[-1.0, 0, 0, 3], [0, -1, 0, 5], [0, 0, 2, -7], [0, 0, 0, 1]])
AS_PUBLISHED = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
TISSUES = {
    "0": "background",
    "1": "edema",
    "2": "non-enhancing tumor",
    "3": "enhancing tumour",
}


def write_listing(root: Path, *, modality=AS_PUBLISHED, labels=TISSUES) -> None:
    text = json.dumps({"modality": modality, "labels": labels, "training": []})
    (root / "dataset.json").write_text(text)


def write_task(root: Path, case_id: str, image: np.ndarray, mask: np.ndarray | None, **words):
    """Write `imagesTr/<id>.nii.gz` (I, J, K, C) and its mask, or `imagesTs` without one."""
    home = "imagesTs" if mask is None else "imagesTr"
    for folder in (home, "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, AFFINE), root / home / f"{case_id}.nii.gz")
    if mask is not None:
        nib.save(nib.Nifti1Image(mask, AFFINE), root / "labelsTr" / f"{case_id}.nii.gz")
    write_listing(root, **words)


def write_mha(path: Path, array: np.ndarray, *, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)) -> Path:
    """Write `(I, J, K)` as ITK would have it: voxel 0 at (0, -239, 0), spacing 1 x 2 x 3 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((0.0, -239.0, 0.0))
    image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return path


def write_2015(home: Path, rng: np.random.Generator, mask: np.ndarray | None) -> None:
    """Write a case folder as BraTS 2015 had them, one folder a volume."""
    shape = (5, 6, 4) if mask is None else mask.shape
    for number, name in enumerate(("MR_Flair", "MR_T1", "MR_T1c", "MR_T2"), start=54512):
        stem = f"VSD.Brain.XX.O.{name}.{number}"
        write_mha(home / stem / f"{stem}.mha", rng.integers(1, 900, shape, dtype=np.int16))
        (home / stem / "License.txt").touch()
    if mask is not None:
        stem = "VSD.Brain_3more.XX.O.OT.54517"
        write_mha(home / stem / f"{stem}.mha", mask)
