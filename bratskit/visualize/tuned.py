"""Say on a run's page what was done to its masks, who chose it, and what it is worth."""

from collections.abc import Mapping

from bratskit.labels import REGIONS
from bratskit.visualize.page import escape, section, table

__all__ = ["clean_up_section"]

TITLE = "What was tidied afterwards?"
ROWS = {
    "without": "no clean-up at all",
    "recipe": "as the recipe had it",
    "chosen": "as chosen: flattered, these patients chose it",
    "left out": "each patient as the others alone would choose: not flattered",
}


def clean_up_section(
    tuning: Mapping[str, object] | None, settings: Mapping[str, object] | None
) -> str:
    """Tell the clean-up of a run, and its scores without and with it where it was tuned.

    Args:
        tuning: `tuning.json` of the run, or None where nothing was tuned.
        settings: `settings.json` of the run, or None.
    """
    own = (settings or {}).get("inference", {})
    names = ("smallest_component_vox", "smallest_et_vox", "fill_holes", "smooth_mm", "temperature")
    said = ", ".join(f"{name} {own[name]}" for name in names if name in own)
    lead = f"<p>By the recipe: {escape(said)}.</p>" if said else ""
    if not tuning:
        how = "Nothing was chosen by score: `bratskit tune RUN` does, on validation patients."
        return section(TITLE, lead, f'<p class="note">{how}</p>') if lead else ""
    chosen = ", ".join(f"{name} {value}" for name, value in tuning["settings"].items())
    lines = [
        [escape(f"{name}: {what}")] + [f"{tuning['dice'][name][region]:.3f}" for region in REGIONS]
        for name, what in ROWS.items()
        if name in tuning["dice"]
    ]
    n_patients = len(tuning["patients"])
    tuned = (
        f"<p>Chosen on {n_patients} validation patients, who are in no score above, for "
        f"<code>tuned.pt</code>: {escape(chosen)}.</p>"
    )
    note = (
        f"Mean Dice of those {n_patients} patients on the scanner's grid. "
        f"{len(tuning['trials'])} values were tried; all are in tuning.json."
    )
    head = ["validation patients", *REGIONS]
    return section(TITLE, lead, tuned, table(head, lines), f'<p class="note">{note}</p>')
