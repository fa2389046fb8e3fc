"""A shipped network has its card and checksums, and predicts as the one it was copied from."""

import pytest
import torch

from bratskit.evaluate import Scores, score_masks
from bratskit.jobs.ship import ship
from bratskit.networks import build_network, load_checkpoint, save_checkpoint, saved_model
from bratskit.runtime import RunFolder
from bratskit.settings import get_recipe


@pytest.fixture
def run(tmp_path, rng):
    """Make a run folder with an untrained network and the scores of one case."""
    run, recipe = RunFolder(tmp_path / "run").create(), get_recipe("smoke")
    network = build_network(recipe.network, in_channels=4, out_channels=4)
    card = {"trained_on": ["Brats18_A_1_1", "Phantom_00000"], "selected_on": ["B"], "epoch": 3}
    save_checkpoint(run.best, network=network, recipe=recipe, card=card)
    masks = rng.integers(0, 4, (2, 6, 6, 6)).astype("uint8")
    rows = score_masks(masks[0], masks[1], spacing_mm=(1, 1, 1), case="C", method="network")
    Scores(rows).save(run.scores)
    return run


def test_a_shipped_network_is_found_and_says_what_it_learned_from(run, tmp_path):
    path = ship(run, tmp_path / "shelf", name="small")
    assert saved_model(tmp_path / "shelf") == path
    card = (tmp_path / "shelf" / "README.md").read_text("utf-8")
    assert "**Learned from** 1 patients and 1 phantoms" in card
    assert "Brats18_A_1_1" in card
    assert "Not a medical device" in card


def test_fp16_kernels_change_probabilities_by_rounding_only(run, tmp_path):
    shipped = load_checkpoint(ship(run, tmp_path / "shelf", name="small")).network
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.inference_mode():
        pair = [net(image).softmax(1) for net in (shipped, load_checkpoint(run.best).network)]
    assert torch.allclose(*pair, atol=5e-3)


def test_an_unscored_run_is_not_shipped(run, tmp_path):
    run.scores.unlink()
    with pytest.raises(FileNotFoundError, match="Finish it with"):
        ship(run, tmp_path / "shelf", name="small")
