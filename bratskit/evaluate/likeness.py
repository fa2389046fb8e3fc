"""Compare phantoms with thirty real cases, in numbers only: `python -m bratskit.evaluate.likeness`.

The numbers of the real cases lie beside this file, without names and in order of tumour size. That
phantoms agree with them says that they look alike in what is measured, and nothing more.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.cases.find import find_cases
from bratskit.cases.nifti import load_scan
from bratskit.evaluate.traits import measure_case
from bratskit.runtime import progress, write_atomically

__all__ = [
    "Likeness",
    "Telling",
    "compare_traits",
    "kolmogorov_smirnov",
    "main",
    "measure_scans",
    "read_real_traits",
    "tell_apart",
    "write_traits",
]

Traits = Mapping[str, NDArray[np.float64]]

REAL_TRAITS = Path(__file__).parent / "real_traits.json"
GROUPS = ("shape", "flair", "t1", "t1ce", "t2", "between")
_ALPHA_5_PERCENT = 1.36  # Smirnov (1948): two-sample distance that chance passes in 1 of 20


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Say how one number is spread over real cases and over phantoms.

    Attributes:
        name: Of the number, as `measure_case` gives it.
        real: Quantiles 10, 50 and 90 % over real cases.
        made: The same over phantoms.
        distance: Kolmogorov-Smirnov, 0 same distribution to 1 no overlap.
        by_chance: Distance that two samples of this size exceed by chance once in twenty.
        inside: Share of phantoms between the real 10 and 90 % quantiles; 0.8 is a match.
    """

    name: str
    real: tuple[float, float, float]
    made: tuple[float, float, float]
    distance: float
    by_chance: float
    inside: float


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Say how well a simple classifier tells real cases and phantoms apart, cross-validated.

    Attributes:
        by: The numbers it was given: "all", or one of `GROUPS`.
        auc: Chance that a phantom looks more like a phantom than a real case does; 0.5 is a match.
        accuracy: Mean over both kinds of the share named right.
        features: What it leans on most, with its standardised weight (positive: phantoms have
            more of it).
    """

    by: str
    auc: float
    accuracy: float
    features: tuple[tuple[str, float], ...]


def measure_scans(scans: Iterable[Scan]) -> dict[str, NDArray[np.float64]]:
    """Measure many cases; one array a number, in order of the whole tumour's volume.

    Raises:
        ValueError: There is no case, or one has no tumour.
    """
    rows = [measure_case(scan) for scan in scans]
    if not rows:
        msg = "scans must hold at least one case; got none. Look for them with `find_cases`."
        raise ValueError(msg)
    rows.sort(key=lambda row: row["WT_ml"])
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def read_real_traits(path: Path | str = REAL_TRAITS) -> dict[str, NDArray[np.float64]]:
    """Read numbers that `write_traits` wrote; by default those of the thirty real cases."""
    stored = json.loads(Path(path).read_text(encoding="utf-8"))
    return {name: np.array(values, dtype=float) for name, values in stored.items()}


def write_traits(path: Path | str, traits: Traits) -> None:
    """Write numbers as JSON, one line a number; no case is named, NaN becomes null."""
    lines = []
    for name, values in traits.items():
        row = [float(value) if np.isfinite(value) else None for value in values]
        lines.append(f"  {json.dumps(name)}: {json.dumps(row)}")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(Path(path), lambda place: place.write_text(text, encoding="utf-8"))


def kolmogorov_smirnov(first: NDArray, second: NDArray) -> float:
    """Return the largest distance between two cumulative distributions; NaN where one is empty.

    Examples:
        >>> kolmogorov_smirnov(np.array([1, 2, 3, 4]), np.array([3, 4, 5, 6]))
        0.5
    """
    if not first.size or not second.size:
        return float("nan")
    places = np.concatenate([first, second])
    below = [np.searchsorted(np.sort(a), places, "right") / a.size for a in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


def compare_traits(made: Traits, real: Traits) -> list[Likeness]:
    """Compare the distributions of every number, worst match first.

    Args:
        made: Numbers of phantoms.
        real: Numbers of real cases.
    """
    found = []
    for name in real:
        ours, theirs = (values[np.isfinite(values)] for values in (made[name], real[name]))
        if not ours.size or not theirs.size:
            continue
        low, middle, high = np.percentile(theirs, (10, 50, 90))
        found.append(
            Likeness(
                name=name,
                real=(float(low), float(middle), float(high)),
                made=tuple(map(float, np.percentile(ours, (10, 50, 90)))),
                distance=kolmogorov_smirnov(ours, theirs),
                by_chance=_ALPHA_5_PERCENT * float(np.sqrt(1 / ours.size + 1 / theirs.size)),
                inside=float(((ours >= low) & (ours <= high)).mean()),
            )
        )
    return sorted(found, key=lambda row: -row.distance)


def group_of(name: str) -> str:
    """Name the group of a number: its modality, what lies between modalities, or shape.

    Examples:
        >>> [group_of(name) for name in ("t1ce_noise", "flair_t2", "WT_ml")]
        ['t1ce', 'between', 'shape']
    """
    head, _, tail = name.partition("_")
    if head in GROUPS:
        return "between" if tail in GROUPS else head
    return "between" if head in ("gain", "deep") else "shape"


def tell_apart(made: Traits, real: Traits, *, by: str = "all", seed: int = 0) -> Telling:
    """Let a logistic regression tell phantoms from real cases, in five-fold cross-validation.

    Numbers become ranks, so that one far-off value does not decide; missing ones the median. It is
    a guide to what is wrong, not a mark: thirty cases and a hundred numbers are told apart easily.

    Args:
        made: Numbers of phantoms.
        real: Numbers of real cases.
        by: Group of numbers to use: "all", or one of `GROUPS`.
        seed: Deals the folds.

    Raises:
        ImportError: scikit-learn is not installed (nilearn asks for it).
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import balanced_accuracy_score, roc_auc_score
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        msg = "tell_apart must have scikit-learn; got none. Run: pip install scikit-learn"
        raise ImportError(msg) from error

    names = [name for name in real if by in ("all", group_of(name))]
    table = np.array([_ranks(made[name], real[name]) for name in names]).T
    is_made = np.r_[np.ones(len(made[names[0]])), np.zeros(len(real[names[0]]))].astype(int)
    model = LogisticRegression(C=0.02, class_weight="balanced", max_iter=1000)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    chance = cross_val_predict(model, table, is_made, cv=folds, method="predict_proba")[:, 1]
    weights = model.fit(table, is_made).coef_[0]
    first = np.argsort(-np.abs(weights))[:8]
    return Telling(
        by=by,
        auc=float(roc_auc_score(is_made, chance)),
        accuracy=float(balanced_accuracy_score(is_made, chance > 0.5)),
        features=tuple((names[i], round(float(weights[i]), 2)) for i in first),
    )


def _ranks(made: NDArray, real: NDArray) -> NDArray[np.float64]:
    values = np.concatenate([made, real])
    known = values[np.isfinite(values)]
    values = np.where(np.isfinite(values), values, np.median(known) if known.size else 0.0)
    ranks = np.searchsorted(np.sort(values), values, "left") / values.size
    return (ranks - ranks.mean()) / max(ranks.std(), 1e-9)


def format_table(rows: Sequence[Likeness], tellings: Sequence[Telling]) -> str:
    """Lay the comparison out as text; a star marks what chance alone does not explain."""
    starred = sum(row.distance > row.by_chance for row in rows)
    lines = [
        f"{starred} of {len(rows)} numbers differ by more than chance (*), worst first",
        f"{'number':<18} {'real 10':>8} {'50':>8} {'90 %':>8}   {'made 10':>8} {'50':>8} "
        f"{'90 %':>8}   {'KS':>4}  inside",
    ]
    for row in rows:
        spread = "   ".join(
            " ".join(f"{value:>8.3g}" for value in values) for values in (row.real, row.made)
        )
        star = "*" if row.distance > row.by_chance else " "
        lines.append(f"{row.name:<18} {spread}   {row.distance:>4.2f}{star} {row.inside:>6.2f}")
    for telling in tellings:
        leaning = ", ".join(f"{name} {weight:+.2f}" for name, weight in telling.features)
        lines.append(
            f"told apart by {telling.by:<8} AUC {telling.auc:.2f}  accuracy "
            f"{telling.accuracy:.2f}  {leaning}"
        )
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bratskit.evaluate.likeness", description=__doc__
    )
    parser.add_argument("folder", nargs="?", help="labelled cases to compare with real ones")
    parser.add_argument("--make", type=int, metavar="N", help="phantoms to make in memory instead")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms that are made")
    parser.add_argument("--save", metavar="JSON", help="keep the numbers")
    parser.add_argument("--load", metavar="JSON", help="compare numbers that were kept")
    return parser


def _scans(options: argparse.Namespace) -> Iterable[Scan]:
    if options.make:
        from bratskit.cases import make_phantom

        for number in progress(range(options.make), "making phantoms", total=options.make):
            yield make_phantom((options.seed, number)).scan
        return
    for case in progress(find_cases(options.folder, require_labels=True), "cases"):
        yield load_scan(case)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a folder of cases and print how they differ from the thirty real ones."""
    options = _parser().parse_args(arguments)
    if not (options.folder or options.make or options.load):
        sys.stderr.write("likeness: say a folder, --make N or --load JSON\n")
        return 2
    made = read_real_traits(options.load) if options.load else measure_scans(_scans(options))
    if options.save:
        write_traits(options.save, made)
    if REAL_TRAITS.exists():
        real = read_real_traits()
        few = min(len(traits["WT_ml"]) for traits in (made, real)) < 5
        tellings = [] if few else [tell_apart(made, real, by=by) for by in ("all", *GROUPS)]
        sys.stdout.write(format_table(compare_traits(made, real), tellings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
