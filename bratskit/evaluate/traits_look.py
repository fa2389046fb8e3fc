"""Measure how four modalities look: contrast, spread, sharpness, noise, evenness, likeness."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bratskit.evaluate.metrics import box_of
from bratskit.evaluate.traits_shape import coarse_step
from bratskit.labels import MODALITIES

__all__ = ["area_under_curve", "measure_look"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Triple = tuple[float, float, float]

_TISSUES = {"ED": 2, "NCR": 1, "ET": 3}
_FEW = 20  # voxels of a tissue below which nothing is said about it
_RIM_MM = 2.0  # thickness of the shells inside and outside of a border
_THIN = 3  # every third voxel of the healthy brain is enough for percentiles
# Ventricles and other deep CSF: dark on FLAIR, bright on T2, far from the outside of the brain.
_CSF_FLAIR, _CSF_T2, _CSF_DEEP_MM = -0.8, 1.2, 20.0


def measure_look(
    image: Array, labels: NDArray[np.uint8], *, spacing_mm: Triple
) -> dict[str, float]:
    """Measure the intensities of one case, as z-scores of each modality's own brain.

    Args:
        image: `(4, I, J, K)`, zero outside the brain.
        labels: Internal labels `(I, J, K)`, with tumour.
        spacing_mm: Voxel size.

    Returns:
        Numbers by name. Of each modality `m`: `m_mean` log10 of the stored mean, `m_spread` sd over
        mean of the brain, `m_missing` share of the brain that is 0; `m_ED`, `m_NCR`, `m_ET`,
        `m_healthy` medians and, for tumour, `m_ED_range` and so on, distance of the quartiles;
        `m_p1`, `m_p5`, `m_p95`, `m_p99` percentiles of healthy tissue; `m_detail` rms difference of
        neighbours in the axial plane, `m_grain` that over the one at 4 mm, `m_through` that across
        slices over it; `m_noise` by Immerkaer's filter; `m_drift` sd of 24 mm blocks' means;
        `m_asymmetry` 1 - correlation with the mirrored brain at 4 mm. `flair_t2` and so on:
        correlation in healthy tissue. `*_auc`: chance that tissue is brighter than healthy brain.
        `*_step`: 2 mm inside less 2 mm outside of a border. `*_mimics_ml`: healthy tissue brighter
        than the tumour's median. `deep_csf_ml`: what looks like ventricles, and
        `WT_ventricle_mm`: 5th percentile of the tumour's distance to it.
    """
    brain = (image != 0).any(axis=0)
    whole = labels > 0
    inner = ndi.binary_erosion(brain, iterations=max(1, round(3 / min(spacing_mm)))) & ~whole
    numbers, scores = {}, np.zeros_like(image)
    for channel, name in enumerate(MODALITIES):
        here = image[channel] != 0
        values = image[channel][here]
        mean, sd = float(values.mean()), max(float(values.std()), 1e-6)
        scores[channel][here] = (values - mean) / sd
        numbers[f"{name}_mean"] = np.log10(max(abs(mean), 1e-6))
        numbers[f"{name}_spread"] = sd / max(abs(mean), 1e-6)
        numbers[f"{name}_missing"] = 1 - values.size / np.count_nonzero(brain)
        of_modality = _tissues(scores[channel], labels, here & ~whole)
        of_modality |= _sharpness(scores[channel], inner, spacing_mm)
        of_modality |= _evenness(scores[channel], brain & ~whole, spacing_mm)
        numbers |= {f"{name}_{what}": value for what, value in of_modality.items()}
    numbers |= _correlations(scores, brain & ~whole)
    numbers |= _separation(scores, labels, brain, spacing_mm)
    return numbers | _ventricles(scores, whole, brain, spacing_mm)


def area_under_curve(positive: NDArray, negative: NDArray) -> float:
    """Return the chance that a positive value is larger than a negative one; ties count half.

    Examples:
        >>> area_under_curve(np.array([1, 3]), np.array([0, 1]))
        0.875
    """
    if not positive.size or not negative.size:
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left").mean()
    up_to = np.searchsorted(ordered, positive, "right").mean()
    return float((below + up_to) / 2 / ordered.size)


def _tissues(score: Array, labels: NDArray[np.uint8], healthy: Mask) -> dict[str, float]:
    numbers = {}
    for name, label in _TISSUES.items():
        values = score[labels == label]
        quartiles = np.percentile(values, (25, 50, 75)) if values.size >= _FEW else [np.nan] * 3
        numbers |= {name: quartiles[1], f"{name}_range": quartiles[2] - quartiles[0]}
    levels = (1, 5, 50, 95, 99)
    found = np.percentile(score[healthy][::_THIN], levels)
    names = ("p1", "p5", "healthy", "p95", "p99")
    return numbers | dict(zip(names, map(float, found), strict=True))


def _sharpness(score: Array, inner: Mask, spacing_mm: Triple) -> dict[str, float]:
    near = [_rms_step(score, inner, axis, 1) for axis in range(3)]
    far = [_rms_step(score, inner, axis, max(2, round(4 / spacing_mm[axis]))) for axis in range(2)]
    in_plane = np.sqrt((near[0] ** 2 + near[1] ** 2) / 2)
    second = score[2:] - 2 * score[1:-1] + score[:-2]
    second = second[:, 2:] - 2 * second[:, 1:-1] + second[:, :-2]
    high = np.abs(second[inner[1:-1, 1:-1]])
    # Immerkaer (1996), Computer Vision and Image Understanding 64(2):300-302; a median for the mean
    noise = 1.4826 * float(np.median(high)) / 6 if high.size else np.nan
    return {
        "detail": in_plane,
        "grain": in_plane / np.sqrt((far[0] ** 2 + far[1] ** 2) / 2),
        "through": near[2] / in_plane,
        "noise": noise,
    }


def _rms_step(score: Array, inner: Mask, axis: int, lag: int) -> float:
    """Return the rms difference of voxels `lag` apart, both of them inside."""
    n = score.shape[axis]
    first = [slice(None)] * 3
    last = [slice(None)] * 3
    first[axis], last[axis] = slice(0, n - lag), slice(lag, n)
    both = inner[tuple(first)] & inner[tuple(last)]
    steps = (score[tuple(last)] - score[tuple(first)])[both]
    return float(np.sqrt(np.mean(steps * steps))) if steps.size else np.nan


def _block_means(values: Array, mask: Mask, step: tuple[int, ...]) -> tuple[Array, Mask]:
    """Average a volume over blocks, inside a mask; the second array says where half is inside."""
    cut = tuple(slice(0, n - n % b) for n, b in zip(values.shape, step, strict=True))
    shape = [part for n, b in zip(values[cut].shape, step, strict=True) for part in (n // b, b)]
    total = (values[cut] * mask[cut]).reshape(shape).sum(axis=(1, 3, 5))
    count = mask[cut].reshape(shape).sum(axis=(1, 3, 5))
    return total / np.maximum(count, 1), count * 2 >= np.prod(step)


def _evenness(score: Array, healthy: Mask, spacing_mm: Triple) -> dict[str, float]:
    large, filled = _block_means(score, healthy, coarse_step(spacing_mm, 24))
    drift = float(large[filled].std()) if filled.sum() > 3 else np.nan
    small, filled = _block_means(score, healthy, coarse_step(spacing_mm, 4))
    places = np.argwhere(filled)
    if len(places) < _FEW:
        return {"drift": drift, "asymmetry": np.nan}
    mirrored = places.copy()
    mirrored[:, 0] = np.round(2 * places[:, 0].mean() - places[:, 0])
    there = (mirrored[:, 0] >= 0) & (mirrored[:, 0] < filled.shape[0])
    places, mirrored = places[there], mirrored[there]
    both = filled[tuple(mirrored.T)]
    pair = small[tuple(places[both].T)], small[tuple(mirrored[both].T)]
    return {"drift": drift, "asymmetry": 1 - _correlation(*pair)}


def _correlation(first: Array, second: Array) -> float:
    if first.size < _FEW or not first.std() or not second.std():
        return np.nan
    return float(np.corrcoef(first, second)[0, 1])


def _correlations(scores: Array, healthy: Mask) -> dict[str, float]:
    values = [score[healthy][::_THIN] for score in scores]
    return {
        f"{MODALITIES[a]}_{MODALITIES[b]}": _correlation(values[a], values[b])
        for a, b in combinations(range(len(MODALITIES)), 2)
    }


def _separation(
    scores: Array, labels: NDArray[np.uint8], brain: Mask, spacing_mm: Triple
) -> dict[str, float]:
    """Measure how far tumour stands out from healthy brain, and how sharp its borders are."""
    flair, t1, t1ce, t2 = scores
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    whole, enhancing = labels > 0, labels == 3
    core = enhancing | (labels == 1)
    healthy = brain & ~whole
    gain = t1ce - t1
    numbers = {
        "flair_WT_auc": area_under_curve(flair[whole], flair[healthy][::_THIN]),
        "t2_WT_auc": area_under_curve(t2[whole], t2[healthy][::_THIN]),
        "t1ce_ET_auc": area_under_curve(t1ce[enhancing], t1ce[healthy][::_THIN]),
        "gain_ET_auc": area_under_curve(gain[enhancing], gain[healthy][::_THIN]),
        "t1_ED_auc": area_under_curve(t1[labels == 2], t1[healthy][::_THIN]),
        "flair_WT_step": _step(flair, whole, brain, spacing_mm),
        "t2_WT_step": _step(t2, whole, brain, spacing_mm),
        "t1ce_TC_step": _step(t1ce, core, brain, spacing_mm),
    }
    for name, label in (("flair", "ED"), ("t1ce", "ET")):
        score, tissue = scores[MODALITIES.index(name)], labels == _TISSUES[label]
        level = np.median(score[tissue]) if np.count_nonzero(tissue) >= _FEW else np.nan
        above_ml = np.count_nonzero(score[healthy] > level) * voxel_ml
        numbers[f"{name}_mimics_ml"] = above_ml if np.isfinite(level) else np.nan
    return numbers


def _step(score: Array, mask: Mask, brain: Mask, spacing_mm: Triple) -> float:
    """Compare the medians of the shells within 2 mm inside and outside of a border."""
    box = box_of(mask)
    if box is None or np.count_nonzero(mask) < _FEW:
        return np.nan
    wide = tuple(
        slice(max(0, b.start - round(4 / s)), b.stop + round(4 / s))
        for b, s in zip(box, spacing_mm, strict=True)
    )
    mask, brain, score = mask[wide], brain[wide], score[wide]
    reach_mm = max(_RIM_MM, *spacing_mm)
    inside = mask & (ndi.distance_transform_edt(mask, sampling=spacing_mm) <= reach_mm)
    beyond = ~mask & brain & (ndi.distance_transform_edt(~mask, sampling=spacing_mm) <= reach_mm)
    if not inside.any() or not beyond.any():
        return np.nan
    return float(np.median(score[inside]) - np.median(score[beyond]))


def _ventricles(scores: Array, whole: Mask, brain: Mask, spacing_mm: Triple) -> dict[str, float]:
    step = coarse_step(spacing_mm)
    thin = tuple(slice(n // 2, None, n) for n in step)
    size_mm = [n * s for n, s in zip(step, spacing_mm, strict=True)]
    depth_mm = ndi.distance_transform_edt(np.pad(brain[thin], 1), sampling=size_mm)[
        1:-1, 1:-1, 1:-1
    ]
    flair, t2 = scores[0][thin], scores[MODALITIES.index("t2")][thin]
    deep = (flair < _CSF_FLAIR) & (t2 > _CSF_T2) & (depth_mm > _CSF_DEEP_MM) & ~whole[thin]
    apart_mm = np.nan
    if deep.any() and whole[thin].any():
        distance_mm = ndi.distance_transform_edt(~deep, sampling=size_mm)
        apart_mm = float(np.percentile(distance_mm[whole[thin]], 5))
    return {
        "deep_csf_ml": np.count_nonzero(deep) * float(np.prod(size_mm)) / 1000,
        "WT_ventricle_mm": apart_mm,
    }
