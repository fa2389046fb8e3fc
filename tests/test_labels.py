"""Each edition's integers mean what its manual says, and an unknown one is never guessed."""

import pytest

from bratskit.labels import LABELS, MODALITIES, REGIONS, SCHEMAS, get_schema, schemas_containing


def test_tumour_core_is_necrosis_and_enhancing_never_edema():
    named = {name: {LABELS[value] for value in values} for name, values in REGIONS.items()}
    assert named == {"WT": {"NCR", "ED", "ET"}, "TC": {"NCR", "ET"}, "ET": {"ET"}}


def test_regions_are_nested():
    whole, core, enhancing = (set(REGIONS[name]) for name in ("WT", "TC", "ET"))
    assert enhancing < core < whole


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # value in the file -> tissue, from each edition's data description
        ("brats2017-2021", {1: "NCR", 2: "ED", 4: "ET"}),
        ("brats2023-gli", {1: "NCR", 2: "ED", 3: "ET"}),
        ("msd-task01", {1: "ED", 2: "NCR", 3: "ET"}),
    ],
)
def test_each_edition_maps_to_the_tissue_its_manual_names(name, expected):
    schema = get_schema(name)
    found = {value: LABELS[internal] for value, internal in schema.to_internal.items() if value}
    assert found == expected


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=str)
def test_writing_back_undoes_reading(schema):
    for value, internal in schema.to_internal.items():
        assert schema.to_source[internal] == value
    assert set(schema.to_source) == set(LABELS)
    assert set(schema.tissue) == set(schema.to_internal)


def test_an_unknown_value_is_refused_with_the_schemas_that_have_it():
    msg = r"labels of case_7 must be in \[0, 1, 2, 4\].*got \[3\].*brats2023-gli, msd-task01"
    with pytest.raises(ValueError, match=msg):
        get_schema("brats2017-2021").refuse_unknown([0, 1, 3, 3], where="case_7")


def test_a_four_under_2023_points_to_the_older_edition():
    with pytest.raises(ValueError, match=r"got \[4\]. Schemas that contain .*: brats2017-2021\."):
        get_schema("brats2023-gli").refuse_unknown([0, 2, 4], where="x")


def test_values_of_no_schema_ask_what_the_file_is():
    with pytest.raises(ValueError, match="is this a tumour mask"):
        get_schema("msd-task01").refuse_unknown([0, 255], where="x")


def test_known_values_pass():
    get_schema("brats2017-2021").refuse_unknown([0, 4, 4.0], where="x")


def test_both_three_label_editions_contain_a_three():
    assert schemas_containing([3]) == ["brats2023-gli", "msd-task01"]
    assert schemas_containing([1, 2]) == list(SCHEMAS)


def test_an_unknown_schema_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"one of \['brats2017-2021', .*got 'brats2020'"):
        get_schema("brats2020")


def test_channels_are_in_the_order_written_into_checkpoints():
    assert MODALITIES == ("flair", "t1", "t1ce", "t2")
