"""Tell whether the values of a file can be computed with: finite, and in reach of float32."""

import numpy as np

from bratskit.cases.volume import Volume

__all__ = ["not_finite"]

LARGEST = float(np.finfo(np.float32).max)


def not_finite(volume: Volume) -> tuple[str, str] | None:
    """Say what is not finite as stored or as float32 after scaling, and what to do about it."""
    data = volume.data
    n_bad = data.size - int(np.isfinite(data).sum()) if data.dtype.kind == "f" else 0
    if n_bad:
        todo = "Set them to 0 (numpy.nan_to_num), or export the modality again."
        return f"NaN or infinity in {n_bad} voxels", todo
    largest = max(abs(float(end) * volume.slope + volume.inter) for end in (data.min(), data.max()))
    if largest <= LARGEST:
        return None
    what = f"values up to {largest:.2g}, too large for float32"
    return what, "Divide them by one number: no scale matters here."
