"""Tell one run on one self-contained page, from the files of its folder; measures nothing anew."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from bratskit.cases import find_cases, load_labels, load_scan
from bratskit.cases.case import Case
from bratskit.evaluate import Scores
from bratskit.runtime import RunFolder, made_by, write_atomically
from bratskit.visualize.curves import draw_history, draw_scores
from bratskit.visualize.figures import draw_comparison
from bratskit.visualize.page import escape, flatten, missing, page, picture, section, table
from bratskit.visualize.tuned import clean_up_section

__all__ = ["pick_cases", "write_report"]

Value = TypeVar("Value")
DEFAULT_EDITION = "brats2017-2021"  # of runs that do not say theirs
REPORT_DPI = 120  # sharp on a phone and on paper
COMPARISON = "report_comparison.png"
NOT_A_DEVICE = (
    "For research and teaching. Not a medical device: nothing here may inform the care of a person."
)


def write_report(run: RunFolder | Path | str, *, cases: Sequence[Case] | None = None) -> Path:
    """Write `report.html` into a run folder: one file, no script, readable on a phone and on paper.

    Args:
        run: The run folder. A file that is missing is said on the page, with what makes it.
        cases: The cases on disk, for the comparison pictures; None looks into `run.cases`. The
            comparison is kept in `run.figures`, so that a later report needs no cases.

    Returns:
        The path of the report, replaced atomically.

    Raises:
        FileNotFoundError: The run folder does not exist.
    """
    run = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    if not run.path.is_dir():
        msg = f"run folder must exist; got {run.path}. Make one with `bratskit demo --out DIR`."
        raise FileNotFoundError(msg)
    scores = _read(run.scores, Scores.load)
    method = _main_method(scores)
    name = run.path.resolve().name
    body = [
        f"<h1>Report of run “{escape(name)}”</h1>",
        f'<p class="warn">{NOT_A_DEVICE}</p>',
        _headline(scores, method),
        _results(scores),
        _every_case(scores, method),
        _pictures(run, scores, method, cases),
        _training(run),
        _data(run),
        clean_up_section(_read(run.tuning, _load_json), _read(run.settings, _load_json)),
        _settings(run),
        _limits(run, scores),
        _stamps(run),
    ]
    text = page(f"bratskit · {name}", body)
    write_atomically(run.report, lambda path: path.write_text(text, encoding="utf-8"))
    return run.report


def pick_cases(scores: Scores, method: str) -> dict[str, str]:
    """Choose the worst, median and best case of a method by its mean Dice over the regions.

    Args:
        scores: The table.
        method: Whose cases.

    Returns:
        Case id by "worst", "median", "best"; fewer where there are fewer cases, empty without.
    """
    ranked = _ranked(scores, method)
    if not ranked:
        return {}
    chosen = {"worst": ranked[0], "median": ranked[(len(ranked) - 1) // 2], "best": ranked[-1]}
    kept: dict[str, str] = {}
    for name in ("worst", "best", "median"):
        if chosen[name] not in kept.values():
            kept[name] = chosen[name]
    return {name: kept[name] for name in ("worst", "median", "best") if name in kept}


def _ranked(scores: Scores, method: str) -> list[str]:
    rows = scores.pick(method=method, kind="region")
    means = {}
    for case in rows.cases:
        dices = rows.pick(case=case).column("dice")
        if not np.isnan(dices).all():
            means[case] = float(np.nanmean(dices))
    return sorted(means, key=means.__getitem__)


def _main_method(scores: Scores | None) -> str:
    methods = scores.methods if scores else ()
    return "network" if "network" in methods or not methods else methods[0]


def _headline(scores: Scores | None, method: str) -> str:
    rows = [row for row in scores.summary() if row.kind == "region"] if scores else []
    tiles = []
    for row in (row for row in rows if row.method == method):
        others = [other.dice.mean for other in rows if other.name == row.name and other is not row]
        known = [mean for mean in others if not math.isnan(mean)]
        dice = row.dice
        beside = f"best baseline {max(known):.2f}" if known else "no baseline"
        if known and dice.mean <= max(known):
            beside = f'<i class="worst">not above the {beside}</i>'
        interval = f"<span>95 % interval {dice.low:.2f}–{dice.high:.2f}</span>"
        spread = "" if math.isnan(dice.low) else interval
        tiles.append(
            f'<div class="tile">{row.name} Dice<b>{dice.mean:.2f}</b>'
            f"{spread}<span>{beside}</span></div>"
        )
    if not tiles:
        return ""
    n_cases = len(scores.pick(method=method).cases)
    lead = f"Mean over {n_cases} cases, each scored on its own scanner grid, by {escape(method)}."
    return f'<p>{lead}</p><div class="tiles">{"".join(tiles)}</div>'


def _results(scores: Scores | None) -> str:
    title = "How good is it, and against what?"
    if not scores:
        return section(title, missing("scores.csv", "Notebook 04 or `bratskit evaluate` makes it."))
    figure = (
        draw_scores(scores).to_png(dpi=REPORT_DPI)
        if any(row.kind == "region" for row in scores)
        else b""
    )
    strip = picture(figure, alt="Dice of every case, by region and method") if figure else ""
    return section(title, f'<div class="scroll">{scores._repr_html_()}</div>', strip)


def _every_case(scores: Scores | None, method: str) -> str:
    title = f"Every case ({method})"
    rows = scores.pick(method=method, kind="region") if scores else Scores()
    if not rows:
        return section(title, missing("scores of single cases", "See above."))
    chosen = {case: name for name, case in pick_cases(scores, method).items()}
    names = list(dict.fromkeys(row.name for row in rows))
    lines = []
    for case in reversed([*_ranked(scores, method)]):
        mine = {row.name: row for row in rows.pick(case=case)}
        tag = chosen.get(case)
        mark = f'<span class="tag {tag}">{tag}</span>' if tag and len(chosen) > 1 else ""
        line = [escape(case) + mark]
        line += [_number(mine.get(name), "dice", 3) for name in names]
        line += [_number(mine.get(name), "hd95_mm", 1) for name in names]
        line += [_number(mine.get(names[0]), column, 1) for column in ("truth_ml", "pred_ml")]
        lines.append(line)
    head = ["case", *(f"{name} Dice" for name in names), *(f"{name} HD95 mm" for name in names)]
    head += [f"{names[0]} truth ml", f"{names[0]} predicted ml"]
    order = "Ordered by mean Dice over the regions. ∅: the truth has none of that region."
    return section(title, table(head, lines), f'<p class="note">{order}</p>')


def _number(row: object, column: str, decimals: int) -> str:
    if row is None or math.isnan(getattr(row, column)):
        return "–"
    sign = " ∅" if row.truth_empty and not column.endswith("_ml") else ""
    return f"{getattr(row, column):.{decimals}f}{sign}"


def _pictures(
    run: RunFolder, scores: Scores | None, method: str, cases: Sequence[Case] | None
) -> str:
    chosen = pick_cases(scores, method) if scores else {}
    notes = []
    try:
        _draw_chosen(run, scores, method, chosen, cases)
    except (OSError, ValueError) as error:
        notes.append(missing("a fresh comparison of cases", str(error)))
    shown = []
    paths = [*run.figures.glob("*.png"), *run.figures.glob("*.gif")]
    paths.sort(key=lambda path: (path.name != COMPARISON, path.suffix == ".gif", path.name))
    for path in paths:
        caption = path.stem.replace("_", " ").capitalize() + "."
        if path.name == COMPARISON:
            caption = f"Cases picked by mean Dice over the regions: {', '.join(chosen) or 'all'}."
        kind = path.suffix.removeprefix(".")
        shown.append(picture(path.read_bytes(), alt=caption, caption=caption, kind=kind))
    if not shown and not notes:
        notes = [missing("pictures", "Notebook 05 makes them.")]
    return section("Where is it right and wrong?", *shown, *notes)


def _draw_chosen(
    run: RunFolder,
    scores: Scores | None,
    method: str,
    chosen: dict[str, str],
    cases: Sequence[Case] | None,
) -> None:
    """Draw worst, median and best into `run.figures`, where the cases and masks are at hand."""
    from bratskit.predict import edition_of  # brings torch, which no other part of a page needs

    source = _read(run.source, _load_json) or {}
    own, is_phantom = source.get("edition", DEFAULT_EDITION), not source.get("data_dir")
    if cases is None and run.cases.is_dir():
        cases = find_cases(run.cases, schema=own if is_phantom else DEFAULT_EDITION)
    if not chosen or not cases:
        if chosen and not (run.figures / COMPARISON).is_file():
            msg = "Call `write_report(run, cases=...)` with the cases on disk."
            raise FileNotFoundError(msg)
        return
    known = {case.id: case for case in cases}
    pairs, notes = [], []
    for name, case_id in chosen.items():
        if case_id not in known:
            msg = f"{case_id} is not among the cases given."
            raise ValueError(msg)
        mask = run.predictions / f"{case_id}.nii.gz"
        pred, _ = load_labels(mask, schema=edition_of(mask, otherwise=own))
        pairs.append((load_scan(known[case_id]), pred))
        rows = scores.pick(method=method, kind="region", case=case_id)
        dices = ", ".join(f"{row.name} {row.dice:.2f}" for row in rows)
        notes.append(f"{name}: {dices}")
    run.figures.mkdir(exist_ok=True)
    drawn = draw_comparison(pairs, notes=notes).to_png(dpi=REPORT_DPI)
    write_atomically(run.figures / COMPARISON, lambda path: path.write_bytes(drawn))


def _training(run: RunFolder) -> str:
    title = "How did it learn?"
    history = _read(run.history, _load_lines)
    if not history:
        return section(title, missing("history.jsonl", "Notebook 02 or `bratskit train` makes it."))
    minutes = sum(row.get("seconds") or 0 for row in history) / 60
    said = f"{len(history)} epochs"
    said += f", {history[-1]['step']} optimiser steps" if "step" in history[-1] else ""
    said += f", {minutes:.1f} minutes" if minutes else ""
    curves = picture(
        draw_history(history).to_png(dpi=REPORT_DPI), alt="Loss, validation Dice and learning rate"
    )
    note = "The weights used are those of the best mean validation Dice; test cases choose nothing."
    return section(title, f"<p>{said}.</p>", curves, f'<p class="note">{note}</p>')


def _data(run: RunFolder) -> str:
    split = _read(run.split, _load_json)
    title = "On which patients?"
    if not split:
        return section(title, missing("split.json", "Notebook 01 makes it."))
    roles = {
        "train": "weights are learned from them",
        "validation": "they choose the epoch",
        "test": "read once, for this page",
    }
    lines = []
    for part, role in roles.items():
        ids = split.get(part, [])
        listed = f"<details><summary>{len(ids)} cases</summary>{escape(', '.join(ids))}</details>"
        lines.append([escape(part), listed, role])
    return section(title, table(["part", "cases", "what for"], lines, is_words=True))


def _settings(run: RunFolder) -> str:
    settings = _read(run.settings, _load_json)
    title = "With which settings?"
    if not settings:
        return section(title, missing("settings.json", "Notebook 01 or 02 writes it."))
    rows = [[escape(name), escape(value)] for name, value in flatten(settings)]
    name = escape(settings.get("name", "unnamed"))
    shown = f"<details><summary>All {len(rows)} settings</summary>{table((), rows, is_words=True)}"
    return section(title, f"<p>Recipe <b>{name}</b>.</p>", f"{shown}</details>")


def _limits(run: RunFolder, scores: Scores | None) -> str:
    ids = scores.cases if scores else ()
    points = [NOT_A_DEVICE]
    if ids and len(ids) < 100:
        points.append(
            f"{len(ids)} scored cases: the intervals say how far a mean would move with "
            "other patients of the same kind, not with other scanners or hospitals."
        )
    is_simulated = any(case.startswith("Phantom") for case in ids)
    if is_simulated:
        points.append(
            "The cases are phantoms, that is simulated: their scores say that the "
            "programs work, and nothing about patients."
        )
    if scores:
        rules = ", ".join(sorted({row.empty_rule for row in scores}))
        points.append(
            f"A region that is absent scores by the empty rule “{rules}”; another rule "
            "gives other means from the same masks."
        )
    if not is_simulated:
        points.append(
            "The truth was drawn by people and programs together; two experts differ as well, "
            "most of all on the enhancing part and the non-enhancing core."
        )
    items = "".join(f"<li>{escape(point)}</li>" for point in points)
    return section("What it does not show", f"<ul>{items}</ul>")


def _stamps(run: RunFolder) -> str:
    found = {
        "split.json": _read(run.split, _load_json),
        "summary.json": _read(run.summary, _load_json),
        "scores.csv": {"made_by": _read(run.scores.with_suffix(".made_by.json"), _load_json)},
        "this page": {"made_by": made_by()},
    }
    rows = [
        [escape(name)] + [escape(stamp.get(key, "–")) for key in ("bratskit", "commit", "time")]
        for name, content in found.items()
        if (stamp := (content or {}).get("made_by"))
    ]
    return section("Made by", table(["file", "bratskit", "commit", "time (UTC)"], rows))


def _load_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _load_lines(path: Path) -> list[dict]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _read(path: Path, load: Callable[[Path], Value]) -> Value | None:
    """Load a file of the run; None where it is missing or cannot be read."""
    try:
        return load(path)
    except (OSError, ValueError, KeyError):
        return None
