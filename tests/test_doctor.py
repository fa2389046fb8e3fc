"""The doctor names each damage and its file and nothing else, also in thousands, also resumed."""

import shutil

import numpy as np
import pytest

from bratskit.cases import check_folder, make_phantom, write_phantom
from tests.damages import Damage, damages, with_paths_in

SPACING_MM = (4.0, 4.0, 4.0)
DAMAGES = list(damages())


@pytest.fixture(scope="session")
def coarse(tmp_path_factory):
    """Return three phantoms of 60 x 60 x 39 voxels with tumour of every kind; read-only."""
    folder = tmp_path_factory.mktemp("coarse")
    return [write_phantom(make_phantom(seed, spacing_mm=SPACING_MM), folder) for seed in (0, 3, 4)]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_each_damage_is_named_with_its_file_and_nothing_else(damage: Damage, coarse, tmp_path):
    number = DAMAGES.index(damage)
    whole = coarse[number % len(coarse)]
    shutil.copytree(next(iter(whole.paths.values())).parent, tmp_path / whole.id)
    case = with_paths_in(whole, tmp_path / whole.id)
    damage.apply(case, np.random.default_rng(number))
    findings = [one for one in check_folder(tmp_path) if one.mend]
    told = {one.kind: one for one in findings if not one.what.startswith("spacing 4 x 4 x 4 mm")}
    assert set(told) == {damage.kind}, [(one.where, one.what) for one in told.values()]
    finding = told[damage.kind]
    assert damage.says in finding.what
    assert finding.severity == damage.severity
    for kind in damage.where:
        assert (f"_{kind}.nii" if kind else whole.id) in finding.where


def test_the_damages_are_a_hundred_and_more_of_25_kinds_and_more():
    assert len(DAMAGES) >= 100
    assert len({damage.apply.func for damage in DAMAGES if hasattr(damage.apply, "func")}) >= 25
    assert len({damage.kind for damage in DAMAGES}) >= 20
