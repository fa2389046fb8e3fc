"""A checkpoint comes back as it went in, and a file that is none is refused in one line."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from bratskit.networks import (
    build_network,
    load_checkpoint,
    save_checkpoint,
    saved_model,
    write_checksums,
)
from bratskit.settings import NetworkSettings, get_recipe


@pytest.fixture
def recipe():
    return replace(get_recipe("tiny"), network=NetworkSettings(channels=(4, 8)))


@pytest.fixture
def network(recipe):
    torch.manual_seed(0)
    return build_network(recipe.network, in_channels=4, out_channels=4)


@pytest.fixture
def path(tmp_path, network, recipe):
    return save_checkpoint(
        tmp_path / "best.pt", network=network, recipe=recipe, card={"trained_on": ["A", "B"]}
    )


def same_weights(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_weights_recipe_and_card_come_back(path, network, recipe):
    checkpoint = load_checkpoint(path)
    assert same_weights(checkpoint.network, network)
    assert checkpoint.recipe == recipe
    assert checkpoint.card["trained_on"] == ["A", "B"]
    assert checkpoint.card["modalities"] == ["flair", "t1", "t1ce", "t2"]
    assert checkpoint.card["targets"] == ["background", "NCR", "ED", "ET"]
    assert not checkpoint.network.training


def test_training_state_comes_back_bit_for_bit(tmp_path, network, recipe):
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.randn(2, 4, 4, 4, 4)).sum().backward()
    optimiser.step()
    sampler = np.random.default_rng(3).bit_generator.state  # plain, with 128-bit integers
    training = {
        "optimiser": optimiser.state_dict(),
        "sampler": sampler,
        "rng": torch.get_rng_state(),
    }
    path = tmp_path / "last.pt"
    save_checkpoint(path, network=network, recipe=recipe, card={}, training=training)
    back = load_checkpoint(path).training
    assert back["sampler"] == sampler
    assert torch.equal(back["rng"], training["rng"])
    moment = training["optimiser"]["state"][0]["exp_avg"]
    assert torch.equal(back["optimiser"]["state"][0]["exp_avg"], moment)


def test_half_stores_kernels_in_half_the_bytes_and_gives_float32_back(
    path, tmp_path, network, recipe
):
    network.stem[1].running_var.fill_(1e6)  # more than float16 can hold
    small = save_checkpoint(
        tmp_path / "half.pt", network=network, recipe=recipe, card={}, half=True
    )
    back = load_checkpoint(small).network
    assert back.head.weight.dtype == torch.float32
    assert torch.equal(back.head.weight, network.head.weight.half().float())
    assert torch.equal(back.stem[1].running_var, network.stem[1].running_var)
    assert small.stat().st_size < path.stat().st_size


def test_two_models_have_two_checksums(path, tmp_path, network, recipe):
    first = load_checkpoint(path).checksum
    with torch.no_grad():
        network.head.bias += 1
    other = save_checkpoint(tmp_path / "b.pt", network=network, recipe=recipe, card={})
    assert load_checkpoint(other).checksum != first


def test_other_channel_order_is_refused_by_name(path):
    order = ("t1", "flair", "t1ce", "t2")
    with pytest.raises(ValueError, match=r"order \['t1', 'flair', .*got \['flair', 't1'"):
        load_checkpoint(path, expect_modalities=order)
    assert load_checkpoint(path, expect_modalities=("flair", "t1", "t1ce", "t2"))


def test_another_grid_is_refused_by_the_settings_that_differ(path, recipe):
    assert load_checkpoint(path, expect_geometry=recipe.geometry)
    finer = replace(recipe.geometry, spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"spacing_mm \(2.0, 2.0, 2.0\) and not \(1.0, 1.0, 1.0\)"):
        load_checkpoint(path, expect_geometry=finer)


def test_a_card_that_contradicts_the_recipe_is_refused(tmp_path, network, recipe):
    card = {"modalities": ["t2", "t1ce", "t1", "flair"]}
    with pytest.raises(ValueError, match="in the order"):
        save_checkpoint(tmp_path / "x.pt", network=network, recipe=recipe, card=card)
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_file_says_so(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="cut off; copy it again"):
        load_checkpoint(path)


def test_a_text_file_is_refused(tmp_path):
    path = tmp_path / "notes.pt"
    path.write_text("not a network")
    with pytest.raises(ValueError, match="another kind of file"):
        load_checkpoint(path)


def test_a_torch_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "foreign.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="save_checkpoint"):
        load_checkpoint(path)


class Bomb:
    """Call a function when unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code inside the file was run",)


def test_code_inside_the_file_is_not_run(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"format": "bratskit-checkpoint", "card": Bomb()}, path, pickle_module=pickle)
    with pytest.raises(ValueError, match="would run code"):
        load_checkpoint(path)


def test_a_newer_format_asks_for_an_update(path):
    content = torch.load(path, weights_only=True)
    torch.save(content | {"version": 99}, path)
    with pytest.raises(ValueError, match="Update bratskit"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_the_recipe_are_refused(path):
    content = torch.load(path, weights_only=True)
    content["recipe"]["network"]["channels"] = (4, 16)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"recipe.network.* changed after training"):
        load_checkpoint(path)


def test_a_missing_file_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="make demo"):
        load_checkpoint(tmp_path / "none.pt")


def test_state_that_could_not_be_read_back_is_refused_by_place(tmp_path, network, recipe):
    training = {"scores": [0.5, np.float64(0.5)]}
    with pytest.raises(TypeError, match=r'training\["scores"\]\[1\].*with float\(\)'):
        save_checkpoint(
            tmp_path / "x.pt", network=network, recipe=recipe, card={}, training=training
        )


def test_saved_model_is_the_last_by_name_with_its_checksum(path):
    second = path.with_name("a-first.pt")
    second.write_bytes(path.read_bytes())
    write_checksums(path.parent)
    assert saved_model(path.parent) == path


def test_a_changed_saved_model_is_refused_with_the_cure(path):
    write_checksums(path.parent)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="git checkout"):
        saved_model(path.parent)


def test_a_saved_model_without_checksum_is_refused(path):
    with pytest.raises(ValueError, match="SHA256SUMS"):
        saved_model(path.parent)


def test_an_empty_folder_names_the_command_that_makes_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="make demo"):
        saved_model(tmp_path)
