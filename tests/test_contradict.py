"""Promise that a wrong label schema is stopped by what the images show, and a right one never."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from bratskit.cases import (
    find_cases,
    find_contradiction,
    find_odd_cases,
    load_scan,
    make_cohort,
    make_phantom,
    read_evidence,
    refuse_contradiction,
)
from bratskit.cases.evidence import PERMUTATIONS, Evidence
from bratskit.labels import MODALITIES, get_schema

# Intensity of background, brain, NCR, ED, ET, fluid; the brain's own spread is about 30.
SHOWN = {
    "flair": (0, 300, 380, 400, 400, 210),
    "t1": (0, 300, 280, 300, 295, 250),
    "t1ce": (0, 300, 280, 295, 390, 240),
    "t2": (0, 300, 420, 370, 380, 440),
}
WRONG = PERMUTATIONS[1:]


def head(rng, *, without=(), unlabelled=None, fluid=False):
    """Draw a 36^3 head with three nested balls: ED around ET around NCR; internal labels.

    `without` lists what a tissue is replaced by; `unlabelled` is shown but read as background.
    """
    i, j, k = np.mgrid[:36, :36, :36] - 17.5
    radius = np.sqrt((i - 3) ** 2 + j**2 + k**2)
    labels = np.select([radius < 4, radius < 6, radius < 10], [1, 3, 2], 0).astype(np.uint8)
    for tissue, stand_in in without:
        labels[labels == tissue] = stand_in
    shown = np.where((i**2 + j**2 + k**2 < 17**2) | (labels > 0), labels + 1, 0)
    if fluid:
        shown[labels == 3] = 5
    image = {name: np.array(SHOWN[name])[shown].astype(np.float32) for name in MODALITIES}
    labels[labels == unlabelled] = 0
    for channel in image.values():
        channel[shown > 0] += rng.normal(0, 20, int((shown > 0).sum()))
    return image, labels


def permuted(labels, permutation):
    """Write masks in which integer p + 1 stands for the tissue that permutation[p] names."""
    lookup = np.zeros(4, np.uint8)
    lookup[list(permutation)] = (1, 2, 3)
    return lookup[labels]


def evidence_of(rng, *, n=3, permutation=PERMUTATIONS[0], **drawn):
    heads = [head(rng, **drawn) for _ in range(n)]
    return [
        read_evidence(f"case{i}", image, permuted(labels, permutation))
        for i, (image, labels) in enumerate(heads)
    ]


def test_the_right_schema_is_not_contradicted(rng):
    assert find_contradiction(evidence_of(rng, n=4), schema="brats2023-gli") is None


@pytest.mark.parametrize("permutation", WRONG, ids=str)
def test_any_two_or_three_labels_exchanged_are_found_and_named(rng, permutation):
    found = find_contradiction(evidence_of(rng, permutation=permutation), schema="brats2023-gli")
    assert found.permutation == permutation
    assert (found.n_against, found.n_cases) == (3, 3)


def test_masks_of_the_decathlon_read_as_brats_2023_point_to_the_decathlon(rng):
    found = find_contradiction(evidence_of(rng, permutation=(2, 1, 3)), schema="brats2023-gli")
    assert found.candidates == ("msd-task01",)
    assert "label 1 (NCR) that looks like ED" in found.message
    assert "label 2 (ED) that looks like NCR" in found.message
    assert "Declare schema='msd-task01'" in found.message


def test_masks_of_children_read_as_brats_2021_point_to_the_edition_of_children(rng):
    found = find_contradiction(evidence_of(rng, permutation=(3, 1, 2)), schema="brats2017-2021")
    assert found.candidates == ("brats2024-ped",)


@pytest.mark.parametrize("wrong", ["brats2012-2015", "msd-task01"])
def test_a_schema_with_several_integers_for_one_tissue_finds_its_way_back(rng, wrong):
    schema, truth = get_schema("brats2024-ped"), get_schema(wrong)
    lookup = np.zeros(5, np.uint8)  # what a mask of `wrong` becomes when it is read as PED
    for source, internal in truth.to_internal.items():
        lookup[internal] = schema.to_internal[source] if source != 3 or internal == 3 else 0
    heads = [head(rng) for _ in range(3)]
    evidence = [read_evidence(f"{i}", image, lookup[x]) for i, (image, x) in enumerate(heads)]
    assert wrong in find_contradiction(evidence, schema=schema).candidates


def test_where_no_known_schema_reads_them_so_the_mapping_is_spelled_out(rng):
    found = find_contradiction(evidence_of(rng, permutation=(3, 2, 1)), schema="brats2023-gli")
    assert found.candidates == ()
    assert "LabelSchema with to_internal={0: 0, 1: 3, 2: 2, 3: 1}" in found.message


def test_one_case_alone_never_decides(rng):
    one = evidence_of(rng, n=1, permutation=(1, 3, 2))
    assert one[0].fits.index(max(one[0].fits)) == 1
    assert find_contradiction(one, schema="brats2023-gli") is None


def test_two_wrong_cases_among_ten_do_not_stop_a_cohort_but_are_named(rng):
    strays = [
        replace(item, case=f"stray{i}")
        for i, item in enumerate(evidence_of(rng, n=2, permutation=(2, 1, 3)))
    ]
    evidence = evidence_of(rng, n=8) + strays
    assert find_contradiction(evidence, schema="brats2023-gli") is None
    assert find_odd_cases(evidence) == {"stray0": (2, 1, 3), "stray1": (2, 1, 3)}


def test_two_weak_cases_are_too_little_to_decide():
    weak = [Evidence(case=str(i), fits=(0, 0, 3, 0, 0, 0)) for i in range(2)]
    assert find_contradiction(weak, schema="brats2023-gli") is None


def test_many_faint_hints_do_not_add_up_to_proof():
    faint = [Evidence(case=str(i), fits=(0, 0, 0.3, 0, 0, 0)) for i in range(1000)]
    assert find_contradiction(faint, schema="brats2023-gli") is None


def test_no_evidence_is_no_contradiction():
    assert find_contradiction([], schema="brats2023-gli") is None


def test_a_cavity_read_as_enhancing_tumour_is_stopped(rng):
    found = find_contradiction(evidence_of(rng, fluid=True), schema="brats2017-2021")
    assert found.candidates == ("brats2024-gli",)
    assert "label 4 (ET) that does not look like enhancing tumour" in found.message


def test_enhancing_tumour_read_as_a_cavity_is_stopped(rng):
    found = find_contradiction(evidence_of(rng, unlabelled=3), schema="brats2024-gli")
    assert found.candidates == ("brats2012-2015", "brats2017-2021")
    assert "label 4 (resection cavity) looks like ET" in found.message


@pytest.mark.parametrize("label", [1, 2, 3])
def test_a_cohort_that_lacks_one_tissue_raises_no_alarm(rng, label):
    evidence = evidence_of(rng, n=6, without=[(label, 0)])
    assert find_contradiction(evidence, schema="brats2023-gli") is None
    assert find_contradiction(evidence, schema="brats2024-gli") is None


@pytest.mark.parametrize("permutation", [(3, 2, 1), (2, 3, 1)], ids=str)
def test_without_oedema_it_is_still_seen_which_label_enhances(rng, permutation):
    evidence = evidence_of(rng, without=[(2, 0)], permutation=permutation)
    found = find_contradiction(evidence, schema="brats2023-gli")
    enhancing = permutation.index(3)
    assert found.permutation[enhancing] == 3


def test_without_oedema_a_core_that_is_the_border_is_not_taken_for_oedema(rng):
    # NCR outside and ET within, as in many tumours of children: NCR touches all that is outside
    evidence = evidence_of(rng, n=8, without=[(1, 9), (2, 1), (9, 3)])
    assert max(item.contact[0] for item in evidence) > 0.6
    assert find_contradiction(evidence, schema="brats2024-ped") is None


def test_contact_is_the_share_of_a_labels_faces_that_see_the_outside(rng):
    image, labels = head(rng)
    labels[:] = 0
    labels[10:15, 10:15, 10:15], labels[15:20, 10:15, 10:15] = 1, 2  # two cubes, face to face
    labels[12, 12, 12] = 3  # too small to be looked at, but its six faces count
    contact = read_evidence("a", image, labels).contact
    assert contact == (float(Fraction(125, 150 + 6)), float(Fraction(125, 150)), None)


@pytest.mark.parametrize("wrong", [None, *WRONG[:2]], ids=str)
def test_a_gain_an_offset_and_a_flip_change_no_evidence(rng, wrong):
    image, labels = head(rng)
    labels = permuted(labels, wrong or PERMUTATIONS[0])
    other = [np.where(x > 0, 7 * x + 50, 0)[::-1, :, ::-1] for x in image.values()]
    before = read_evidence("a", image, labels)
    after = read_evidence("a", np.stack(other), labels[::-1, :, ::-1])
    assert after.fits == pytest.approx(before.fits, abs=1e-3)


@pytest.mark.parametrize(
    "broken",
    [
        lambda image, labels: (image, np.zeros_like(labels)),
        lambda image, labels: (image, (labels == 2).astype(np.uint8)),
        lambda image, labels: ({k: v for k, v in image.items() if k != "t1"}, labels),
        lambda image, labels: (image | {"t2": np.zeros_like(image["t2"])}, labels),
        lambda image, labels: (image | {"t2": np.full_like(image["t2"], np.nan)}, labels),
    ],
    ids=["no tumour", "one label", "no t1", "empty t2", "t2 of nan"],
)
def test_a_case_that_shows_nothing_gives_no_evidence(rng, broken):
    assert read_evidence("a", *broken(*head(rng))) is None


def test_labels_of_another_grid_are_refused(rng):
    image, labels = head(rng)
    with pytest.raises(ValueError, match="Load both with load_scan"):
        read_evidence("a", image, labels[1:])


def test_evidence_survives_json(rng):
    (item,) = evidence_of(rng, n=1)
    assert Evidence.from_dict(json.loads(json.dumps(item.to_dict()))) == item


def cohort_on_disk(write_case, folder, rng, *, n, schema):
    """Write masks in the integers of brats2023-gli and declare another schema for them."""
    cases = []
    for i in range(n):
        image, labels = head(rng)
        image = np.stack(list(image.values()))
        case = write_case(folder, f"case{i}", image=image, labels=labels, suffix=".nii")
        cases.append(replace(case, schema=get_schema(schema)))
    return cases


def test_a_cohort_under_a_wrong_schema_is_refused_in_one_line(rng, tmp_path, write_case):
    cases = cohort_on_disk(write_case, tmp_path, rng, n=4, schema="msd-task01")
    with pytest.raises(ValueError, match="Declare schema='brats2023-gli'") as refusal:
        refuse_contradiction(cases, most=3)
    assert "\n" not in str(refusal.value)


def test_a_cohort_under_its_own_schema_passes_with_or_without_masks(rng, tmp_path, write_case):
    cases = cohort_on_disk(write_case, tmp_path, rng, n=3, schema="brats2023-gli")
    refuse_contradiction([*cases, replace(cases[0], labels_path=None)])
    refuse_contradiction([])


def test_fewer_than_two_cases_to_read_are_refused():
    with pytest.raises(ValueError, match="try most=8"):
        refuse_contradiction([], most=1)


@pytest.fixture(scope="module")
def phantoms():
    """Return what three coarse phantoms say, seeds not used for the constants."""
    made = [make_phantom((1301, i), spacing_mm=(4.0, 4.0, 4.0)).scan for i in range(3)]
    return [(scan.image, scan.labels) for scan in made]


@pytest.mark.parametrize("permutation", PERMUTATIONS, ids=str)
def test_phantoms_say_what_their_labels_are(phantoms, permutation):
    evidence = [read_evidence("a", image, permuted(x, permutation)) for image, x in phantoms]
    found = find_contradiction(evidence, schema="brats2023-gli")
    assert (found and found.permutation) == (None if permutation == (1, 2, 3) else permutation)


@pytest.mark.slow
def test_a_written_cohort_passes_in_its_own_edition_and_in_no_other(tmp_path):
    cases = make_cohort(tmp_path, n_cases=8, seed=1302, spacing_mm=(3.0, 3.0, 3.0), workers=1)
    refuse_contradiction(cases)
    wrong = [replace(case, schema=get_schema("brats2024-ped")) for case in cases]
    with pytest.raises(ValueError, match=r"Declare schema=.*'brats2017-2021'"):
        refuse_contradiction(wrong)


@pytest.fixture(scope="module")
def said_by_real_cases(real_cases):
    """Return, for each way of writing the labels, what thirty real cases say about them."""
    said = {permutation: [] for permutation in PERMUTATIONS}
    for case in find_cases(real_cases):
        scan = load_scan(case)
        for permutation, evidence in said.items():
            evidence.append(read_evidence(case.id, scan.image, permuted(scan.labels, permutation)))
    return said


@pytest.mark.slow
@pytest.mark.parametrize("n", [30, 10, 5, 3])
@pytest.mark.parametrize("permutation", PERMUTATIONS, ids=str)
def test_real_cases_say_what_their_labels_are(said_by_real_cases, rng, permutation, n):
    evidence = said_by_real_cases[permutation]
    expected = None if permutation == (1, 2, 3) else permutation
    for _ in range(300 if n < len(evidence) else 1):
        chosen = [evidence[i] for i in rng.permutation(len(evidence))[:n]]
        found = find_contradiction(chosen, schema="brats2023-gli")
        assert (found and found.permutation) == expected


@pytest.mark.slow
def test_no_real_case_is_odd_or_shows_a_cavity(said_by_real_cases):
    evidence = said_by_real_cases[1, 2, 3]
    assert find_odd_cases(evidence) == {}
    assert max(item.fluid for item in evidence if item.fluid is not None) < 0
