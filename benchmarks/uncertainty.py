"""Ask on held-out patients whether uncertainty ranks errors and probabilities keep their promise.

    python benchmarks/uncertainty.py CASES WORK [--model FILE] [--figure samples/uncertainty.png]

CASES is a folder of real BraTS cases with masks. The patients that the model's card names under
`selected_on` (its best epoch was chosen on them) are the only ones a temperature is fitted on;
those that the card names nowhere are tested. Two forms of the same network are asked: one pass,
and the mean of eight mirror images; each at temperature 1 (before) and at its own (after). All is
measured on the native grid before anything is tidied, on two sets of voxels, neither of which
knows the truth:

* brain: where any modality has a signal. Nearly all of it is surely no tumour;
* near: the part of it within 10 mm of what one pass at temperature 1 calls tumour.

Ninety-six passes of two CPU seconds each. Kill it at any moment and run it again: it goes on at the
next patient. WORK keeps one JSON each; the summary goes to `--results`.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from bratskit.cases import Case, Scan, find_cases, load_scan
from bratskit.evaluate import Estimate, Reliability, RiskCoverage, dice, reliability, risk_coverage
from bratskit.labels import REGIONS
from bratskit.networks import Checkpoint, load_checkpoint, saved_model
from bratskit.predict import (
    Folded,
    Volume,
    fit_temperature,
    fold_members,
    list_members,
    region_probs,
)
from bratskit.preprocess import Prepared, brain_mask, decide, prepare_scan
from bratskit.runtime import made_by, write_atomically
from bratskit.settings import Recipe
from bratskit.visualize import Picture, draw_sureness

RESULTS = Path(__file__).parent / "results" / "predict" / "uncertainty.json"
FORMS = {"one pass": "none", "eight mirrors": "all"}  # inference.mirror
NEAR_MM = 10.0
ROUNDS = 2  # of the fit: windows and mirrors are averaged after the temperature, see its docstring
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every patient is asked with.

    Attributes:
        model: The network with its recipe.
        cases: By id.
        work: Where what is measured is kept.
    """

    model: Checkpoint
    cases: dict[str, Case]
    work: Path

    def recipe(self, form: str, temperature: float = 1.0) -> Recipe:
        """Run the network in a form and at a temperature, tidying nothing."""
        recipe = self.model.recipe
        settings = replace(
            recipe.inference,
            mirror=FORMS[form],
            temperature=temperature,
            smallest_component_vox=0,
        )
        return replace(recipe, inference=settings)

    @property
    def fitted_on(self) -> list[str]:
        """Name the validation patients."""
        return sorted(set(self.model.card["selected_on"]) & set(self.cases))

    @property
    def tested(self) -> list[str]:
        """Name the patients that no choice was made on."""
        seen = {*self.model.card["trained_on"], *self.model.card["selected_on"]}
        return sorted(set(self.cases) - seen)

    def kept(self, name: str, make: Callable[[], dict], **asked: object) -> dict:
        """Read what was measured for the same question, or measure and keep it."""
        path = self.work / f"{name}.json"
        asked = json.loads(json.dumps({"model": self.model.checksum, **asked}))
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["asked"] == asked:
                return known
        started = time.perf_counter()
        found = {"asked": asked, **make()}
        text = json.dumps(found) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text))
        sys.stdout.write(f"{name}: {time.perf_counter() - started:.0f} s\n")
        sys.stdout.flush()
        return found


class Remember(torch.nn.Module):
    """Answer a window that was seen before from memory: temperatures only divide its logits."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.multiple_vox = network.multiple_vox
        self.known: dict[bytes, torch.Tensor] = {}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the network's logits."""
        key = hashlib.blake2b(image.contiguous().numpy()).digest()
        if key not in self.known:
            self.known[key] = self.network(image)
        return self.known[key]


class Patients:
    """Prepare patients with their masks one at a time, as often as they are gone through."""

    def __init__(self, bench: Bench, case_ids: Sequence[str]) -> None:
        self.bench, self.case_ids = bench, case_ids

    def __iter__(self) -> Iterator[tuple[Prepared, np.ndarray]]:
        for case_id in self.case_ids:
            prepared = prepare_scan(load_scan(self.bench.cases[case_id]), self.bench.model.recipe)
            yield prepared, prepared.labels


def fit(bench: Bench) -> dict:
    """Fit the temperature of each form on the validation patients."""

    def make() -> dict:
        network, found = Remember(bench.model.network), {}
        patients = Patients(bench, bench.fitted_on)
        for form in FORMS:
            fitted = [1.0]
            for _ in range(ROUNDS):
                recipe = bench.recipe(form, fitted[-1])
                fitted.append(fit_temperature(network, patients, recipe, device=CPU))
            found[form] = {"temperature": fitted[-1], "rounds": fitted[1:]}
        return found

    return bench.kept("fit", make, patients=bench.fitted_on, rounds=ROUNDS, forms=FORMS)


def measure(bench: Bench, case_id: str, temperatures: dict[str, float]) -> dict:
    """Predict one patient in each form, before and after, and keep what can be added up."""

    def make() -> dict:
        scan = load_scan(bench.cases[case_id])
        prepared = prepare_scan(replace(scan, labels=None), bench.model.recipe)
        network, near, found = Remember(bench.model.network), None, {}
        for form, temperature in temperatures.items():
            for when, at in (("before", 1.0), ("after", temperature)):
                recipe = bench.recipe(form, at)
                members = list_members(network, recipe, case_id=case_id)
                folded = fold_members(members, prepared, device=CPU)
                near = near_tumour(scan, prepared, folded) if near is None else near
                found[f"{form}, {when}"] = numbers(scan, prepared, folded, recipe, near)
        return found

    return bench.kept(case_id, make, temperatures=temperatures, near_mm=NEAR_MM, forms=FORMS)


def near_tumour(scan: Scan, prepared: Prepared, folded: Folded) -> np.ndarray:
    """Mark the brain near what is called tumour."""
    tumour = prepared.geometry.invert_to_labels(folded.probs) > 0
    if not tumour.any():
        return tumour
    spacing_mm = prepared.geometry.spacing_native_mm
    far_mm = ndimage.distance_transform_edt(~tumour, sampling=spacing_mm)
    return brain_mask(scan.image) & (far_mm <= NEAR_MM)


def numbers(
    scan: Scan, prepared: Prepared, folded: Folded, recipe: Recipe, near: np.ndarray
) -> dict:
    """Measure one prediction against the truth, on the native grid."""
    native = prepared.geometry.invert(folded.probs, targets=recipe.targets)
    labels = decide(native, targets=recipe.targets)
    labels[~brain_mask(scan.image)] = 0
    maps = {
        "entropy": prepared.geometry.invert_image(folded.entropy).max(axis=0),
        "1 - largest probability": 1 - native.max(axis=0),
    }
    if folded.mutual_information.any():
        information = prepared.geometry.invert_image(folded.mutual_information)
        maps["mutual information"] = information.max(axis=0)
    regions = region_probs(native, targets=recipe.targets)
    truths = {name: np.isin(scan.labels, REGIONS[name]) for name in REGIONS}
    voxels = {"brain": brain_mask(scan.image), "near": near}
    voxel_ml = math.prod(prepared.geometry.spacing_native_mm) / 1000
    return {
        "reliability": {
            where: {
                name: plain_numbers(reliability(regions[name][mask], truths[name][mask]))
                for name in REGIONS
            }
            for where, mask in voxels.items()
        },
        "risk": {
            where: {
                name: plain_numbers(risk_coverage(m[mask], (labels != scan.labels)[mask]))
                for name, m in maps.items()
            }
            for where, mask in voxels.items()
            if mask.any()
        },
        "volumes_ml": {name: tuple(volume) for name, volume in folded.volumes.items()},
        "member_ml": folded.member_ml,
        "truth_ml": {name: int(mask.sum()) * voxel_ml for name, mask in truths.items()},
        "dice": {
            name: dice(np.isin(labels, REGIONS[name]), mask, when_both_empty="one")
            for name, mask in truths.items()
        },
    }


def plain_numbers(found: Reliability | RiskCoverage) -> dict:
    """Turn arrays into lists, for JSON."""
    return {k: np.asarray(value).tolist() for k, value in asdict(found).items()}


def summarise(rows: dict[str, dict], patients: Sequence[str]) -> dict:
    """Put the patients of one form and temperature together."""
    mean = lambda values: asdict(Estimate.over_patients(values, patients))  # noqa: E731
    found = {"ece": {}, "ece_of_each": {}, "risk": {}}
    for where in ("brain", "near"):
        found["ece"][where] = {name: added(rows, where, name).ece for name in REGIONS}
        found["ece_of_each"][where] = {
            name: {case: added({case: row}, where, name).ece for case, row in rows.items()}
            for name in REGIONS
        }
        found["risk"][where] = {
            name: {
                "distance": mean([risk_of(row, where, name).distance for row in rows.values()]),
                "area": averaged(rows, where, name).area,
                "random_area": averaged(rows, where, name).error_rate,
                "ideal_area": averaged(rows, where, name).ideal_area,
                "patients_better_than_random": sum(
                    risk_of(row, where, name).distance < 1 for row in rows.values()
                ),
            }
            for name in next(iter(rows.values()))["risk"][where]
        }
    found["dice"] = {name: mean([row["dice"][name] for row in rows.values()]) for name in REGIONS}
    found["volumes"] = {name: covered(rows, name) for name in REGIONS}
    return found


def covered(rows: dict[str, dict], name: str) -> dict:
    """Count the patients whose true volume lies in the interval."""
    truths = {case: row["truth_ml"][name] for case, row in rows.items()}
    intervals = {case: Volume(*row["volumes_ml"][name]) for case, row in rows.items()}
    inside = [v.low_ml <= truths[case] <= v.high_ml for case, v in intervals.items()]
    spread = [
        min(row["member_ml"][name]) <= truths[case] <= max(row["member_ml"][name])
        for case, row in rows.items()
    ]
    return {
        "covered": sum(inside),
        "covered_by_members_range": sum(spread) if len(members_of(rows, name)) > 1 else None,
        "patients": len(rows),
        "each": {case: {"truth_ml": truths[case], **v._asdict()} for case, v in intervals.items()},
    }


def members_of(rows: dict[str, dict], name: str) -> Sequence[float]:
    """Look at one patient's passes."""
    return next(iter(rows.values()))["member_ml"][name]


def added(rows: dict[str, dict], where: str, name: str) -> Reliability:
    """Add the bins of all patients up."""
    each = [
        Reliability(**{k: np.array(v) for k, v in row["reliability"][where][name].items()})
        for row in rows.values()
    ]
    return sum(each[1:], each[0])


def risk_of(row: dict, where: str, name: str) -> RiskCoverage:
    """Read one patient's curve back."""
    values = row["risk"][where][name].items()
    return RiskCoverage(**{k: np.array(v) if isinstance(v, list) else v for k, v in values})


def averaged(rows: dict[str, dict], where: str, name: str) -> RiskCoverage:
    """Average the curves over patients."""
    return RiskCoverage.over_patients([risk_of(row, where, name) for row in rows.values()])


def draw(rows: dict[str, dict], bench: Bench) -> Picture:
    """Draw one pass before and after, and what each form orders errors by; curves, no patient."""
    once, eight = rows["one pass, after"], rows["eight mirrors, after"]
    truths = {name: {c: row["truth_ml"][name] for c, row in once.items()} for name in REGIONS}
    return draw_sureness(
        {name: added(rows["one pass, before"], "near", name) for name in REGIONS},
        {name: added(once, "near", name) for name in REGIONS},
        {
            "entropy, one pass": averaged(once, "near", "entropy"),
            "entropy, eight mirrors": averaged(eight, "near", "entropy"),
            "mutual information, eight mirrors": averaged(eight, "near", "mutual information"),
        },
        {
            name: {
                case: (Volume(*row["volumes_ml"][name]), truths[name][case])
                for case, row in once.items()
            }
            for name in REGIONS
        },
        title=(
            f"{bench.model.path.stem} on {len(once)} held-out patients, voxels within "
            f"{NEAR_MM:.0f} mm of the predicted tumour; temperature fitted on "
            f"{len(bench.fitted_on)} others"
        ),
    )


def main() -> None:
    """Fit, measure, summarise, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path, default=None, help="the shipped one if left out")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=None)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        model=load_checkpoint(asked.model or saved_model()),
        cases={case.id: case for case in find_cases(asked.cases)},
        work=asked.work,
    )
    fits = {form: found for form, found in fit(bench).items() if form in FORMS}
    temperatures = {form: found["temperature"] for form, found in fits.items()}
    each = {case_id: measure(bench, case_id, temperatures) for case_id in bench.tested}
    rows = {
        f"{form}, {when}": {case_id: found[f"{form}, {when}"] for case_id, found in each.items()}
        for form in FORMS
        for when in ("before", "after")
    }
    found = {
        "made_by": made_by(),
        "model": {"file": bench.model.path.name, "checksum": bench.model.checksum},
        "fitted_on": bench.fitted_on,
        "tested": bench.tested,
        "fits": fits,
        "near_mm": NEAR_MM,
        **{name: summarise(row, bench.tested) for name, row in rows.items()},
    }
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(asked.results, lambda temporary: temporary.write_text(text))
    if asked.figure:
        picture = draw(rows, bench).to_png(dpi=110)
        write_atomically(asked.figure, lambda temporary: temporary.write_bytes(picture))


if __name__ == "__main__":
    main()
