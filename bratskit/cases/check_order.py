"""Ask whether modalities were exchanged: in one case, or in a whole cohort by its listing."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from bratskit.cases.findings import Finding
from bratskit.cases.look import Look, where_of
from bratskit.cases.order import ORDERS, OrderFits, describe_order
from bratskit.labels import MODALITIES

__all__ = ["EXPLAINED", "check_cohort_order", "check_order", "cohort_order", "doubts_flair"]

# Log-likelihood by which another order fits better than the names. Over the thirty real cases and
# fifty phantoms of 2, 3 and 5 mm one case prefers another order, T1 for T1ce by 3.7; the others
# prefer theirs, by 2 and more. Exchanged over all of them, T1 and T1ce gain 8 on average, any
# others 18 and more.
CASE_MARGIN = 7.0  # in one case; 4.6 at most where its mask is mirrored or moved
COHORT_MARGIN = 3.0  # on average over a cohort
FEW = 3  # cases below which there is no average
MOST_SHARE = 0.6  # of the cases that must agree
FLAIR_MARGIN = 5.0  # by the brain alone; 4.2 at most where FLAIR is FLAIR, with masks moved too
EXPLAINED = ("swapped", "mask-place")  # what exchanged modalities look like in one case

_FLAIR_MOVES = np.array([order[MODALITIES.index("flair")] != 0 for order in ORDERS])


def check_order(look: Look, *, doubtful: Collection[str] = ()) -> list[Finding]:
    """Name the modalities of one case that look like each other's.

    Args:
        look: The case.
        doubtful: Files that are no witness; with any, nothing is said.
    """
    if look.order is None or doubtful:
        return []
    gains = look.order.gains
    best = int(gains.argmax())
    if gains[best] <= CASE_MARGIN:
        return []
    held, moved = describe_order(best)
    names = " and ".join([", ".join(moved[:-1]), moved[-1]])
    return [
        Finding(
            case=look.case.id,
            kind="swapped",
            what=f"{names} look swapped: by its contrast {held}",
            where=", ".join(where_of(look.case, name) for name in moved),
            mend="Compare the pictures, and exchange the names if fluid, fat and vessels agree.",
            severity="warning",
        )
    ]


def doubts_flair(look: Look) -> bool:
    """Tell whether the brain suggests that the file called FLAIR is none, so no mask is judged."""
    if look.order is None:
        return False
    gains = np.subtract(look.order.brain, look.order.brain[0])
    return bool(gains[_FLAIR_MOVES].max() > FLAIR_MARGIN)


def cohort_order(fits: Sequence[OrderFits]) -> int | None:
    """Return the place in `ORDERS` of the order that a cohort shows, None where names fit."""
    if len(fits) < FEW:
        return None
    gains = np.array([fit.gains for fit in fits])
    best = int(gains.mean(axis=0).argmax())
    is_sure = gains[:, best].mean() > COHORT_MARGIN and (gains[:, best] > 0).mean() > MOST_SHARE
    return best if is_sure else None


def check_cohort_order(folder: Path | str, fits: Sequence[OrderFits]) -> Iterator[Finding]:
    """Name the order of modalities that fits a cohort better than the names of its files."""
    best = cohort_order(fits)
    if best is None:
        return
    n_for = sum(bool(fit.gains[best] > 0) for fit in fits)
    yield Finding(
        case="-",
        kind="exchanged",
        what=f"modalities are exchanged in {n_for} of {len(fits)} cases: {describe_order(best)[0]}",
        where=str(folder),
        mend='Exchange the names of the files, or the entries of "modality" in dataset.json, as '
        "said; look at one case before and after.",
        severity="problem",
    )
