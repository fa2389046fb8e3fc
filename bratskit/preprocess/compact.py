"""Hold a prepared case in a sixth of the space: one byte a voxel, compressed in small chunks."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["CompactArray", "choose_levels", "decode", "encode", "read_compact", "write_compact"]

N_LEVELS = 255  # code 0 stands for exactly 0, the background
RULER_STEPS = 4096  # sixteen a level, so that two levels between two marks are rare
SAMPLE_VOX = 20_000  # enough for a median, a spread, and to see more than 255 values
# Blocks are decompressed whole: longer ones read 12 % slower for a patch, and save no space.
CHUNK_VOX = (64, 64, 64)
BLOCK_VOX = (32, 32, 32)


def encode(
    image: NDArray[np.floating],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Name each voxel's nearest level.

    Args:
        image: z-scores `(C, i, j, k)`; background exactly 0.

    Returns:
        Codes `(C, i, j, k)` uint8, 0 exactly where the image is 0, and the levels `(C, 256)`
        float32 they stand for, the first 0. A modality that is 0 everywhere, because it is
        missing or constant, has codes 0 only.
    """
    codes = np.zeros(image.shape, dtype=np.uint8)
    levels = np.zeros((len(image), N_LEVELS + 1), dtype=np.float32)
    for channel, code, level in zip(image, codes, levels, strict=True):
        measured = channel != 0
        values = np.asarray(channel[measured], dtype=np.float32)
        if not len(values):
            continue
        found = choose_levels(values)
        code[measured] = _nearest(values, found) + 1
        level[1 : len(found) + 1] = found
        level[len(found) + 1 :] = found[-1]  # never used; keeps the row sorted
    return codes, levels


def choose_levels(values: NDArray[np.float32]) -> NDArray[np.float32]:
    r"""Choose at most 255 numbers that stand for all values of one modality.

    Where no more than 255 values occur, as on the native grid of a case stored as uint8, they are
    the levels and nothing is lost. Otherwise the levels are evenly spaced in $\mathrm{asinh}((z -
    m) / 2s)$, $m$ the median and $s$ half the distance of the 16th and 84th percentiles, from the
    smallest value to the largest. Near the median that is as fine as evenly spaced levels between
    robust limits (steps of about 0.03 s), yet no bright vessel or outlier is cut off: far out the
    steps grow with the distance, and one voxel at 10,000 s makes the others three times as wide,
    where levels spaced evenly up to it would leave one for the whole brain.

    Args:
        values: Non-zero z-scores `(N,)`, at least one.

    Returns:
        Levels, sorted, float32; the smallest and the largest value are among them.
    """
    sample = values[:: max(1, len(values) // SAMPLE_VOX)]
    if len(np.unique(sample)) <= N_LEVELS:
        every = np.unique(values)
        if len(every) <= N_LEVELS:
            return every
    low, centre, high = np.percentile(sample, (16, 50, 84))
    spread = (high - low) / 2 or float(values.std(dtype=np.float64))
    ends = np.array([values.min(), values.max()], dtype=np.float64)
    first, last = np.arcsinh((ends - centre) / (2 * spread))
    levels = centre + 2 * spread * np.sinh(np.linspace(first, last, N_LEVELS))
    levels[[0, -1]] = ends
    return levels.astype(np.float32)


def _nearest(values: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.intp]:
    """Find each value's nearest level, as `np.searchsorted` on the middles between them does.

    Searched one by one, a million values take 33 ms. A ruler of even steps says at once about
    where to look, and one or two comparisons decide.
    """
    middle = (levels[1:] + levels[:-1]) / 2
    marks = np.linspace(levels[0], levels[-1], RULER_STEPS + 1, dtype=np.float64)
    ruler = np.searchsorted(middle, marks)
    step = np.float32(marks[1] - marks[0])
    if step < np.finfo(np.float32).tiny or np.diff(ruler).max() > 2:
        # One level, or an outlier that stretches the ruler until many lie between two marks.
        return np.searchsorted(middle, values)
    # One mark lower, should rounding have passed one.
    code = np.take(ruler, ((values - levels[0]) / step).astype(np.intp) - 1, mode="clip")
    middle = np.append(middle, np.float32(np.inf))
    while (further := values > np.take(middle, code)).any():
        code += further
    return code


def decode(codes: NDArray[np.uint8], levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Look codes `(C, ...)` up in the levels `(C, 256)`: z-scores `(C, ...)` float32.

    torch looks up half again as fast as `np.take`, and as fast as `offset + scale * code`.
    """
    image = torch.empty(codes.shape, dtype=torch.float32)
    for code, level, out in zip(codes, levels, image, strict=True):
        index = torch.from_numpy(np.ascontiguousarray(code)).reshape(-1).long()
        torch.index_select(torch.from_numpy(level), 0, index, out=out.view(-1))
    return image.numpy()


def write_compact(array: NDArray, path: Path) -> None:
    """Compress an array `(..., i, j, k)` of one-byte numbers into one file.

    Zstandard at its fastest: higher levels take 5 % off the file for four times the time, and
    shuffling bits makes noise larger. Equal content gives equal bytes.

    Raises:
        OSError: The disk is full. blosc2 would hide it, so the file is written from memory.
    """
    import blosc2  # half a second: not before somebody wants this form

    stored = np.ascontiguousarray(array, dtype=np.uint8)
    channels = stored.shape[:-3]
    compressed = blosc2.asarray(
        stored,
        chunks=_at_most(stored.shape, (*channels, *CHUNK_VOX)),
        blocks=_at_most(stored.shape, (*[1 for _ in channels], *BLOCK_VOX)),
        cparams={
            "codec": blosc2.Codec.ZSTD,
            "clevel": 1,
            "filters": [blosc2.Filter.NOFILTER],
            "filters_meta": [0],
            "nthreads": 1,  # cases are prepared side by side
        },
    )
    path.write_bytes(compressed.to_cframe())


def read_compact(path: Path, part: tuple[slice, ...] | None = None) -> NDArray[np.uint8]:
    """Decompress a file of `write_compact`, or no more than one part of it."""
    return _open(path)[(...,) if part is None else part]


class CompactArray:
    """Look at a compact image `(C, i, j, k)` as at an array of float32; hold no file open.

    Slices read no more than they ask for; any other index, and `np.asarray`, read all of it.

    Args:
        path: File of codes.
        levels: What they stand for, `(C, 256)` float32.
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(self, path: Path, levels: NDArray[np.float32]) -> None:
        self._path = path
        self._levels = levels
        self.shape: tuple[int, ...] = tuple(_open(path).shape)

    @property
    def size(self) -> int:
        """Number of voxels of all modalities."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"CompactArray(shape={self.shape}, path={str(self._path)!r})"

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            msg = "copy must not be False; got a compressed image. Use np.asarray(image)."
            raise ValueError(msg)
        return decode(read_compact(self._path), self._levels).astype(
            dtype or self.dtype, copy=False
        )

    def __getitem__(self, key: object) -> NDArray:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > self.ndim or not all(map(_is_plain, keys)):
            return np.asarray(self)[key]
        lengths = self.shape[: len(keys)]
        part = tuple(_as_slice(k, length) for k, length in zip(keys, lengths, strict=True))
        image = decode(read_compact(self._path, part), self._levels[part[0]])
        return image[tuple(slice(None) if isinstance(k, slice) else 0 for k in keys)]


def _open(path: Path) -> "blosc2.NDArray":  # noqa: F821 - imported where it is needed
    import blosc2

    return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})


def _is_plain(key: object) -> bool:
    if isinstance(key, slice):
        return key.step in (None, 1)
    return isinstance(key, (int, np.integer)) and not isinstance(key, bool)


def _as_slice(key: "slice | int", length: int) -> slice:
    if isinstance(key, slice):
        start, stop, _ = key.indices(length)
        return slice(start, max(start, stop))
    if not -length <= key < length:
        msg = f"index must be in [{-length}, {length}); got {key}."
        raise IndexError(msg)
    at = int(key) % length
    return slice(at, at + 1)


def _at_most(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(pair) for pair in zip(shape, wanted, strict=True))
