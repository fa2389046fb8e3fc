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
        ("brats2012-2015", {1: "NCR", 2: "ED", 3: "NCR", 4: "ET"}),
        ("brats2017-2021", {1: "NCR", 2: "ED", 4: "ET"}),
        ("brats2023-gli", {1: "NCR", 2: "ED", 3: "ET"}),
        ("brats2023-met", {1: "NCR", 2: "ED", 3: "ET"}),
        ("brats2024-gli", {1: "NCR", 2: "ED", 3: "ET", 4: "background"}),
        ("brats2024-ped", {1: "ET", 2: "NCR", 3: "NCR", 4: "ED"}),
        ("msd-task01", {1: "ED", 2: "NCR", 3: "ET"}),
    ],
)
def test_each_edition_maps_to_the_tissue_its_manual_names(name, expected):
    schema = get_schema(name)
    found = {value: LABELS[internal] for value, internal in schema.to_internal.items() if value}
    assert found == expected


@pytest.mark.parametrize(
    ("name", "written"),
    [
        # background, NCR, ED, ET
        ("brats2012-2015", (0, 1, 2, 4)),
        ("brats2017-2021", (0, 1, 2, 4)),
        ("brats2023-gli", (0, 1, 2, 3)),
        ("brats2023-met", (0, 1, 2, 3)),
        ("brats2024-gli", (0, 1, 2, 3)),
        ("brats2024-ped", (0, 2, 4, 1)),
        ("msd-task01", (0, 2, 1, 3)),
    ],
)
def test_each_edition_is_written_in_its_own_integers(name, written):
    assert tuple(get_schema(name).to_source.items()) == tuple(zip(LABELS, written, strict=True))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=str)
def test_reading_undoes_writing(schema):
    for internal, value in schema.to_source.items():
        assert schema.to_internal[value] == internal
    assert set(schema.tissue) == set(schema.to_internal)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=str)
def test_only_declared_outside_tissue_reads_as_background(schema):
    background = {value for value, internal in schema.to_internal.items() if internal == 0}
    assert background - {0} == set(schema.outside)


def test_a_cavity_is_never_written_for_background():
    schema = get_schema("brats2024-gli")
    cavity_first = {4: 0, **{value: schema.to_internal[value] for value in (0, 1, 2, 3)}}
    turned = type(schema)(
        name="x", to_internal=cavity_first, tissue=schema.tissue, outside=schema.outside
    )
    assert schema.to_source[0] == turned.to_source[0] == 0


def test_an_unknown_value_is_refused_with_the_schemas_that_have_it():
    msg = (
        r"labels of case_7 must be in \[0, 1, 2, 4\].*got \[3\].*"
        "brats2012-2015, brats2023-gli, brats2023-met, brats2024-gli, brats2024-ped, msd-task01"
    )
    with pytest.raises(ValueError, match=msg):
        get_schema("brats2017-2021").refuse_unknown([0, 1, 3, 3], where="case_7")


def test_a_four_under_2023_points_to_the_editions_that_have_one():
    msg = (
        r"got \[4\]. Schemas that contain \[0, 2, 4\]: brats2012-2015, brats2017-2021, "
        r"brats2024-gli, brats2024-ped\."
    )
    with pytest.raises(ValueError, match=msg):
        get_schema("brats2023-gli").refuse_unknown([0, 2, 4], where="x")


def test_three_and_four_together_are_no_edition_of_2017_to_2021():
    assert schemas_containing([0, 1, 2, 3, 4]) == [
        "brats2012-2015",
        "brats2024-gli",
        "brats2024-ped",
    ]


def test_values_of_no_schema_ask_what_the_file_is():
    with pytest.raises(ValueError, match="is this a tumour mask"):
        get_schema("msd-task01").refuse_unknown([0, 255], where="x")


def test_known_values_pass():
    get_schema("brats2017-2021").refuse_unknown([0, 4, 4.0], where="x")
    get_schema("brats2024-gli").refuse_unknown([0, 4], where="x")


def test_every_edition_contains_a_one_and_a_two():
    assert schemas_containing([1, 2]) == list(SCHEMAS)


def test_an_unknown_schema_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"one of \['brats2012-2015', .*got 'brats2020'"):
        get_schema("brats2020")


def test_channels_are_in_the_order_written_into_checkpoints():
    assert MODALITIES == ("flair", "t1", "t1ce", "t2")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=str)
def test_as_written_allows_the_same_integers_and_changes_none(schema):
    kept = schema.as_written.to_internal
    assert set(kept) == set(schema.to_internal)
    assert all(value == same for value, same in kept.items())
