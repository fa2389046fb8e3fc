"""Draw how phantoms compare with real cases, number by number; shows no image of either."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from bratskit.evaluate.likeness import kolmogorov_smirnov
from bratskit.visualize.frame import INK, PAPER_DPI, Picture

__all__ = ["SHOWN", "draw_likeness"]

# Okabe and Ito (2008): told apart with every common colour vision, and in grey.
_COLOURS = {"real": "#0072B2", "phantoms": "#E69F00"}
_MARKERS = {"real": "o", "phantoms": "^"}
_ROWS = {"real": 1.0, "phantoms": 0.0}

# Numbers that are drawn: what it is called on the figure, and whether its axis is logarithmic.
SHOWN: dict[str, tuple[str, bool]] = {
    "WT_ml": ("whole tumour, ml", True),
    "TC_ml": ("tumour core, ml", True),
    "ET_ml": ("enhancing tumour, ml", True),
    "TC_of_WT": ("core / whole", False),
    "ET_of_TC": ("enhancing / core", False),
    "rim_mm": ("thickness of ET, mm", False),
    "NCR_in_ET": ("NCR's border on ET, share", False),
    "TC_in_ED": ("TC's border on ED, share", False),
    "WT_sphericity": ("sphericity of WT", False),
    "TC_sphericity": ("sphericity of TC", False),
    "ET_largest": ("largest part of ET, share", False),
    "WT_crumbs": ("crumbs of WT, count", False),
    "WT_midline_mm": ("WT from midline, mm", False),
    "WT_depth_mm": ("depth of WT, mm", False),
    "WT_ventricle_mm": ("WT to deep CSF, mm", False),
    "deep_csf_ml": ("deep CSF, ml", False),
    "brain_ml": ("brain, ml", False),
    "flair_WT_auc": ("FLAIR finds WT, AUC", False),
    "t1ce_ET_auc": ("T1ce finds ET, AUC", False),
    "t1ce_mimics_ml": ("as bright as ET, ml", True),
    "flair_ED": ("oedema on FLAIR, z", False),
    "flair_NCR": ("necrosis on FLAIR, z", False),
    "t1ce_ET": ("enhancing on T1ce, z", False),
    "t1_NCR": ("necrosis on T1, z", False),
    "t2_ED": ("oedema on T2, z", False),
    "flair_ED_range": ("range in oedema, FLAIR, z", False),
    "flair_p99": ("healthy 99 %, FLAIR, z", False),
    "t1ce_p99": ("healthy 99 %, T1ce, z", False),
    "flair_spread": ("brain sd / mean, FLAIR", False),
    "t2_spread": ("brain sd / mean, T2", False),
    "flair_noise": ("noise, FLAIR, z", True),
    "t1_noise": ("noise, T1, z", True),
    "flair_grain": ("sharpness in plane, FLAIR", False),
    "t2_grain": ("sharpness in plane, T2", False),
    "flair_through": ("across / in plane, FLAIR", False),
    "t1ce_through": ("across / in plane, T1ce", False),
    "flair_asymmetry": ("asymmetry, FLAIR", False),
    "t1_drift": ("drift over brain, T1, z", False),
    "t1_t1ce": ("correlation T1, T1ce", False),
    "flair_t2": ("correlation FLAIR, T2", False),
}


def draw_likeness(
    made: Mapping[str, NDArray],
    real: Mapping[str, NDArray],
    *,
    shown: Sequence[str] | None = None,
    note: str = "",
    n_across: int = 5,
) -> Picture:
    """Draw a small panel for each number: a dot a case, real above phantoms.

    Args:
        made: Numbers of phantoms, as `evaluate.likeness.measure_scans` gives them.
        real: Numbers of real cases.
        shown: Names of numbers; None takes those of `SHOWN`.
        note: Said below the title, for example how the phantoms were made.
        n_across: Panels beside each other.

    Returns:
        The figure. A bar marks each median, a band the middle 80 %; KS is the largest distance
        between the two cumulative distributions, with a star where chance (5 %) does not reach. A
        logarithmic axis has no place for zeros: dots, bar and band leave them out, KS does not.

    Raises:
        ValueError: A number is missing on one side.
    """
    shown = list(SHOWN if shown is None else shown)
    for name in shown:
        if name not in made or name not in real:
            msg = f"shown must name numbers of both sides; got {name!r}. One that is: 'WT_ml'."
            raise ValueError(msg)
    n_down = -(-len(shown) // n_across)
    size = (2.05 * n_across, 0.95 * n_down + 0.9)
    figure = Picture(figsize=size, dpi=PAPER_DPI, layout="constrained", facecolor="white")
    axes = figure.subplots(n_down, n_across, squeeze=False).ravel()
    for ax, name in zip(axes, shown, strict=False):
        _draw_number(ax, name, made=made[name], real=real[name])
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    sizes = f"{len(real[shown[0]])} real cases, {len(made[shown[0]])} phantoms"
    legend = "bar: median, band: middle 80 %, KS: 0 alike, 1 apart, * more than chance"
    figure.suptitle(
        f"Phantoms beside real cases: {sizes}{'  ·  ' + note if note else ''}\n{legend}",
        fontsize=9,
        color=INK,
        linespacing=1.4,
    )
    handles = [
        Line2D([], [], color=_COLOURS[side], marker=_MARKERS[side], linewidth=0, label=label)
        for side, label in (
            ("real", "real cases (upper row)"),
            ("phantoms", "phantoms (lower row)"),
        )
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False,
        labelcolor=INK,
    )  # fmt: skip
    return figure


def _draw_number(ax: Axes, name: str, *, made: NDArray, real: NDArray) -> None:
    title, is_log = SHOWN.get(name, (name, False))
    values = {"real": real[np.isfinite(real)], "phantoms": made[np.isfinite(made)]}
    distance = kolmogorov_smirnov(values["phantoms"], values["real"])  # zeros count, drawn or not
    chance = 1.36 * np.sqrt(sum(1 / max(found.size, 1) for found in values.values()))
    star = "*" if distance > chance else ""
    if is_log:
        values = {side: found[found > 0] for side, found in values.items()}
    for side, found in values.items():
        if found.size:
            _draw_side(ax, side, found)
    ax.set_title(title, fontsize=7.5, color=INK, loc="left", pad=2)
    ax.text(1, 1.03, f"KS {distance:.2f}{star}", transform=ax.transAxes, fontsize=6.5, ha="right",
            va="bottom", color=INK, weight="bold" if star else "normal")  # fmt: skip
    ax.set(ylim=(-0.6, 1.6), yticks=[])
    if is_log:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=_ticks(values)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(axis="x", labelsize=6.5, length=2, pad=1)
    ax.spines[["top", "left", "right"]].set_visible(False)


def _ticks(values: Mapping[str, NDArray]) -> tuple[float, ...]:
    """Choose ticks for a logarithmic axis: 1, 2 and 5 of each decade where there are few."""
    found = np.concatenate([*values.values()])
    decades = np.log10(found.max() / found.min()) if found.size else 1
    return (1.0,) if decades > 2.2 else (1.0, 2.0, 5.0)


def _draw_side(ax: Axes, side: str, found: NDArray) -> None:
    row, colour = _ROWS[side], _COLOURS[side]
    low, middle, high = np.percentile(found, (10, 50, 90))
    ax.fill_betweenx([row - 0.36, row + 0.36], low, high, color=colour, alpha=0.22, linewidth=0)
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, found.size)  # only keeps dots apart
    ax.plot(
        found, row + jitter, _MARKERS[side], color=colour, markersize=2.1, alpha=0.8, linewidth=0,
        markeredgewidth=0,
    )  # fmt: skip
    ax.plot([middle, middle], [row - 0.42, row + 0.42], color=INK, linewidth=1.3)
