"""Copy the network of a finished run into `saved_model/`, with its card and checksums."""

import json
import sys
from pathlib import Path

from bratskit.evaluate import Scores
from bratskit.networks import Checkpoint, load_checkpoint, save_checkpoint, write_checksums
from bratskit.runtime import RunFolder, write_atomically

__all__ = ["ship"]

CAVEAT = """Phantom contrasts and volumes were matched to summary numbers of all thirty development
cases, and two constants of the FLAIR baseline were chosen on six of them, so the test patients are
not untouched in the strictest sense."""
TERMS = """Weights that learned from BraTS cases come from data for research use only (Menze 2015,
Bakas 2017 and 2018, Baid 2021). Not a medical device: no output is fit for a decision about a
patient."""


def ship(run: RunFolder | Path | str, folder: Path | str, *, name: str) -> Path:
    """Write `<name>.pt` (kernels in fp16), `README.md` and `SHA256SUMS` into a folder.

    Args:
        run: A run that was trained and scored.
        folder: Usually `saved_model/`; other networks in it stay.
        name: Name of the network. `saved_model()` takes the last one by name.

    Returns:
        Path of the network.

    Raises:
        FileNotFoundError: The run has no network or no scores yet; says which.
    """
    run, folder = run if isinstance(run, RunFolder) else RunFolder(Path(run)), Path(folder)
    for needed in (run.best, run.scores):
        if not needed.is_file():
            msg = f"run must be trained and scored; got {run.path} without {needed.name}. "
            msg += f"Finish it with `bratskit demo --out {run.path}`."
            raise FileNotFoundError(msg)
    model, scores = load_checkpoint(run.best), Scores.load(run.scores)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.pt"
    save_checkpoint(
        path, network=model.network, recipe=model.recipe, card=dict(model.card), half=True
    )
    write_checksums(folder)
    text = _card(name, model, scores)
    write_atomically(folder / "README.md", lambda part: part.write_text(text, encoding="utf-8"))
    return path


def _card(name: str, model: Checkpoint, scores: Scores) -> str:
    """Write the model card: what it learned from, how it scores, under which terms."""
    card, recipe = model.card, model.recipe
    phantoms = [one for one in card["trained_on"] if "Phantom_" in one]
    patients = sorted(set(card["trained_on"]) - set(phantoms))
    n_weights = sum(weight.numel() for weight in model.network.parameters())
    stamp = card["made_by"]
    facts = (
        f"**Network** {recipe.network.name}, {n_weights / 1e6:.1f} million weights in fp16",
        f"**Input** {', '.join(card['modalities'])}; **output** background, NCR, ED, ET",
        f"**Learned from** {len(patients)} patients and {len(phantoms)} phantoms",
        f"**Chosen on** {len(card['selected_on'])} others, at epoch {card['epoch']}",
        f"**Scored on** {len(scores.cases)} more, on the native grid",
        f"**Made by** bratskit {stamp['bratskit']}, commit {stamp['commit']}, {stamp['time']}",
    )
    parts = (
        f"# {name}",
        "\n".join(f"* {fact}" for fact in facts),
        f"```\n{scores}\n```",
        CAVEAT if patients else "",
        TERMS,
        f"Learned from these patients: {', '.join(patients) or 'none'}.",
        f"Settings:\n\n```json\n{json.dumps(recipe.to_dict(), indent=1)}\n```",
    )
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    sys.stdout.write(f"{ship(sys.argv[1], sys.argv[2], name=sys.argv[3])}\n")
