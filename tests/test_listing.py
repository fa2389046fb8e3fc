"""A folder of networks is listed with what each is, and a file that is none is said, not run."""

import pickle
from dataclasses import replace

import pytest
import torch

from bratskit.cli import main
from bratskit.networks import build_network, list_models, models_table, save_checkpoint
from bratskit.settings import NetworkSettings, get_recipe

RECIPE = replace(get_recipe("tiny"), network=NetworkSettings(channels=(4, 8)))
CARD = {
    "trained_on": ["Phantom_00001", "BraTS2021_00000", "BraTS2021_00002"],
    "selected_on": ["BraTS2021_00003"],
    "dice_mean": 0.75,
    "epoch": 4,
}


class Trap:
    """Write a file if anybody unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    network = build_network(RECIPE.network, in_channels=4, out_channels=4)
    save_checkpoint(tmp_path / "a" / "best.pt", network=network, recipe=RECIPE, card=CARD)
    tuned = {**CARD, "tuned": {"patients": ["BraTS2021_00003"]}}
    save_checkpoint(tmp_path / "a" / "tuned.pt", network=network, recipe=RECIPE, card=tuned)
    return tmp_path


def test_each_network_is_said_with_what_it_learned_from(folder):
    best, tuned = list_models(folder)
    assert best.facts["channels"] == "flair t1 t1ce t2"
    assert best.facts["grid"] == "brain, 2 x 2 x 2 mm"
    assert best.facts["learned from"] == "2 patients, 1 phantoms"
    assert best.facts["chosen on"] == "1 patients"
    assert best.facts["by"] == "Dice 0.750, epoch 4"
    assert (best.facts["clean-up"], tuned.facts["clean-up"]) == ("as in the recipe", "tuned")
    assert not best.problem
    assert str(best.path) in models_table([best, tuned])


def test_foreign_cut_off_and_harmful_files_are_listed_with_their_problem(folder):
    whole = (folder / "a" / "best.pt").read_bytes()
    (folder / "b_cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, folder / "c_foreign.pt")
    torch.save({"format": "bratskit-checkpoint", "version": 1}, folder / "d_incomplete.pt")
    torch.save({"trap": Trap(folder / "ran")}, folder / "e_trap.pt")
    (folder / "f_pickle.pt").write_bytes(pickle.dumps(Trap(folder / "ran")))
    found = {item.path.name: item.problem for item in list_models(folder)}
    assert not (folder / "ran").exists()
    assert "cut off" in found["b_cut.pt"]
    assert "another program" in found["c_foreign.pt"]
    assert "without recipe, card, state_dict" in found["d_incomplete.pt"]
    assert "would run code" in found["e_trap.pt"]
    assert "another kind of file" in found["f_pickle.pt"]
    assert found["best.pt"] == ""


def test_bytes_changed_at_random_are_a_problem_or_none_and_never_a_crash(folder, rng):
    whole = (folder / "a" / "best.pt").read_bytes()
    for _ in range(40):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 20):
            damaged[at] = rng.integers(256)
        (folder / "damaged.pt").write_bytes(bytes(damaged))
        list_models(folder / "damaged.pt")


def test_the_command_lists_them_and_says_by_its_exit_code_whether_all_are_whole(folder, capsys):
    assert main(["models", str(folder)]) == 0
    assert "2 patients, 1 phantoms" in capsys.readouterr().out
    (folder / "cut.pt").write_bytes(b"PK")
    assert main(["models", str(folder)]) == 1
    assert "cut off" in capsys.readouterr().out


def test_a_folder_without_networks_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*.pt file"):
        list_models(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_models(tmp_path / "absent")
