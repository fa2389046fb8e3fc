"""Take a case from its files to the prepared array in one go, at the speed of decompression."""

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case
from bratskit.cases.nifti import read_case, to_internal, write_finite
from bratskit.cases.volume import Volume
from bratskit.labels import MODALITIES
from bratskit.preprocess.prepare import prepare_measured
from bratskit.preprocess.steps import Measured
from bratskit.preprocess.store import Prepared
from bratskit.settings import Recipe

__all__ = ["load_prepared"]

# Normal numbers of float32, in which a scan holds real values.
_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def load_prepared(case: Case, recipe: Recipe, *, threads: int | None = None) -> Prepared:
    """Load and prepare one case: `prepare_scan(load_scan(case), recipe)`, several times faster.

    Values stay as stored, 8 or 16 bit integers, until the brain is cropped, and the native scan is
    never made: a slope changes no z-score. The numbers are the same to float32 rounding.

    Args:
        case: Files of one patient.
        recipe: `recipe.geometry` sets the grid, `recipe.modalities` the channels and
            `recipe.normalise` their scale.
        threads: Files decoded, and modalities normalised, at once; None means one a core.

    Raises:
        FileNotFoundError: A file of the case does not exist.
        ValueError: A modality is missing, a file is damaged or not 3D, grids differ, a value is not
            finite, not an integer label or unknown to the schema, or the scan holds no brain.
            Names case and file.
    """
    channels: dict[str, Measured] = {}

    def take(name: str, volume: Volume) -> Volume:
        channels[name] = Measured.cut(_proportional(volume, case.id))
        return volume.forget()

    modalities, mask = read_case(case, threads=threads, take=take)
    return prepare_measured(
        [channels[name] for name in MODALITIES],
        None if mask is None else to_internal(mask, schema=case.schema, case_id=case.id),
        case_id=case.id,
        affine=modalities[0].affine,
        recipe=recipe,
        threads=threads,
    )


def _proportional(volume: Volume, case_id: str) -> NDArray:
    """Give values with the zeros and the ratios of the real ones: as stored, where that holds."""
    stored = volume.data
    largest = volume.slope * (1 << 8 * stored.itemsize)  # of any integer of this size
    whole = stored.dtype.kind in "iu" and stored.itemsize <= 2 and stored.dtype.isnative
    if whole and volume.inter == 0 and volume.slope >= _LEAST and largest < _MOST:
        return stored
    real = np.empty_like(stored, dtype=np.float32)  # keeps the memory order of the file
    write_finite(volume, real, case_id=case_id)
    return real
