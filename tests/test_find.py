"""Cases are found by file name in every usual layout; a broken folder is named, not guessed at."""

import json
import shutil

import numpy as np
import pytest
from tasks import AS_PUBLISHED, TISSUES, write_2015, write_listing, write_task

from bratskit.cases import find_cases, load_scan
from bratskit.cases.find import as_case, collect_files
from bratskit.labels import MODALITIES, get_schema

SHAPE = (6, 7, 5)


@pytest.fixture
def cohort(tmp_path, write_case):
    for case_id in ("b", "a"):
        write_case(tmp_path, case_id, shape=SHAPE)
    return tmp_path


def ids(cases):
    return [case.id for case in cases]


def test_nested_cases_come_sorted_with_all_their_files(cohort):
    cases = find_cases(cohort)
    assert ids(cases) == ["a", "b"]
    assert tuple(cases[0].paths) == MODALITIES
    assert cases[0].paths["t1"].name == "a_t1.nii.gz"
    assert cases[0].labels_path.name == "a_seg.nii.gz"


def test_flat_folder_deeper_folder_and_one_case_are_found_alike(tmp_path, write_case):
    write_case(tmp_path / "flat", "a", shape=SHAPE, flat=True, suffix=".nii")
    write_case(tmp_path / "flat", "b", shape=SHAPE, flat=True)
    write_case(tmp_path / "deep" / "HGG", "c", shape=SHAPE)
    assert ids(find_cases(tmp_path / "flat")) == ["a", "b"]
    assert ids(find_cases(tmp_path / "deep")) == ["c"]
    assert ids(find_cases(tmp_path / "deep" / "HGG" / "c")) == ["c"]


def test_letter_case_of_suffixes_does_not_matter(tmp_path, write_case):
    case = write_case(tmp_path, "a", shape=SHAPE, suffix=".nii")
    case.paths["flair"].rename(tmp_path / "a" / "a_FLAIR.NII")
    assert find_cases(tmp_path)[0].paths["flair"].name == "a_FLAIR.NII"


def test_names_of_brats_2023_are_known(tmp_path, write_case):
    case = write_case(tmp_path, "old", shape=SHAPE, schema="brats2023-gli")
    for old, new in {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}.items():
        case.paths[old].rename(tmp_path / "old" / f"BraTS-GLI-00001-000-{new}.nii.gz")
    case.labels_path.rename(tmp_path / "old" / "BraTS-GLI-00001-000-seg.nii.gz")
    (found,) = find_cases(tmp_path, schema="brats2023-gli")
    assert found.id == "BraTS-GLI-00001-000"
    assert found.paths["t1ce"].name.endswith("-t1c.nii.gz")


def test_schema_is_declared_by_name_or_object(cohort):
    schema = get_schema("msd-task01")
    assert find_cases(cohort, schema="msd-task01")[0].schema is schema
    assert find_cases(cohort, schema=schema)[0].schema is schema


def test_hidden_files_folders_named_like_volumes_and_predictions_are_no_cases(cohort):
    shutil.copy(cohort / "a" / "a_t1.nii.gz", cohort / "a" / "._a_t1.nii.gz")
    (cohort / "x_t1.nii").mkdir()
    shutil.copy(cohort / "a" / "a_seg.nii.gz", cohort / "a.nii.gz")
    assert ids(find_cases(cohort)) == ["a", "b"]


def test_a_linked_case_is_found_and_a_link_in_a_circle_ends(cohort, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    (linked / "a").symlink_to(cohort / "a")
    (linked / "loop").symlink_to(linked)
    assert ids(find_cases(linked)) == ["a"]


def test_lone_mask_with_a_foreign_name_is_taken(cohort):
    (cohort / "a" / "a_seg.nii.gz").rename(cohort / "a" / "W39_1998.09.19_Segm.nii.gz")
    assert find_cases(cohort)[0].labels_path.name == "W39_1998.09.19_Segm.nii.gz"


def test_a_foreign_mask_that_could_be_another_is_not_guessed_at(cohort):
    mask = cohort / "a" / "a_seg.nii.gz"
    shutil.copy(mask, cohort / "a" / "one_segm.nii.gz")
    mask.rename(cohort / "a" / "two_segm.nii.gz")
    assert find_cases(cohort)[0].labels_path is None


@pytest.mark.parametrize(
    "name", ["unet_segmentation_output", "segmentation", "pred.seg", "segm_of_a_net", "dissegm"]
)
def test_what_a_network_wrote_is_no_mask_of_an_expert(cohort, name):
    (cohort / "a" / "a_seg.nii.gz").rename(cohort / "a" / f"{name}.nii.gz")
    with pytest.raises(ValueError, match="got none for a in"):
        find_cases(cohort, require_labels=True)


@pytest.mark.parametrize("place", ["predictions", "a/predictions", "out/a"])
def test_a_mask_that_lies_apart_from_its_images_is_not_taken_and_named(cohort, place):
    (cohort / place).mkdir(parents=True)
    mask = (cohort / "a" / "a_seg.nii.gz").rename(cohort / place / "a_seg.nii.gz")
    assert find_cases(cohort)[0].labels_path is None
    with pytest.raises(ValueError, match=rf"{place}/a_seg\.nii\.gz was not taken: it lies apart"):
        find_cases(cohort, require_labels=True)
    shutil.copy(mask, cohort / "a" / "a_seg.nii.gz")
    assert find_cases(cohort)[0].labels_path == cohort / "a" / "a_seg.nii.gz"


@pytest.mark.parametrize("masks", ["labels", "Masks", "seg", "ground_truth", "labelsTr"])
def test_images_and_masks_in_a_folder_each_belong_together(tmp_path, write_case, masks):
    case = write_case(tmp_path / "images", "a", shape=SHAPE, flat=True)
    (tmp_path / masks).mkdir()
    moved = case.labels_path.rename(tmp_path / masks / "a_seg.nii.gz")
    assert find_cases(tmp_path, require_labels=True)[0].labels_path == moved


@pytest.mark.parametrize("own", [True, False])
def test_a_folder_for_each_volume_or_for_each_kind_is_found(tmp_path, write_case, own):
    case = write_case(tmp_path / "in", "a", shape=SHAPE, suffix=".nii")
    for kind, path in (*case.paths.items(), ("seg", case.labels_path)):
        place = tmp_path / "out" / (f"a/a_{kind}.nii" if own else kind)
        place.mkdir(parents=True)
        path.rename(place / path.name)
    (found,) = find_cases(tmp_path / "out", require_labels=True)
    assert found.labels_path.name == "a_seg.nii"


def test_foreign_mask_never_replaces_the_named_one(cohort):
    shutil.copy(cohort / "a" / "a_seg.nii.gz", cohort / "a" / "other_segm.nii.gz")
    assert find_cases(cohort)[0].labels_path.name == "a_seg.nii.gz"


def test_case_without_mask_is_fine_unless_masks_are_required(cohort):
    (cohort / "a" / "a_seg.nii.gz").unlink()
    assert find_cases(cohort)[0].labels_path is None
    with pytest.raises(ValueError, match=r"got none for a in .* Add a_seg\.nii\.gz"):
        find_cases(cohort, require_labels=True)


def test_missing_modality_is_named_with_its_case(cohort):
    (cohort / "b" / "b_t1ce.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"b lacks t1ce.*Add b_t1ce\.nii\.gz to .*b, or"):
        find_cases(cohort)


def test_two_files_for_one_modality_are_both_named(cohort):
    shutil.copy(cohort / "a" / "a_t2.nii.gz", cohort / "b" / "a_t2.nii.gz")
    with pytest.raises(ValueError, match=r"t2 of case a must be one file; got .*a/a_t2.*b/a_t2"):
        find_cases(cohort)


def test_folder_without_cases_is_told_the_expected_names(tmp_path):
    with pytest.raises(ValueError, match=r"Expected names: <case>_flair\.nii\.gz"):
        find_cases(tmp_path)


def test_missing_folder_and_file_for_a_folder_are_refused(tmp_path, cohort):
    with pytest.raises(FileNotFoundError, match="Give the folder that holds the cases"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"Give .*a instead"):
        find_cases(cohort / "a" / "a_t1.nii.gz")


def test_unknown_schema_is_told_which_exist(cohort):
    with pytest.raises(ValueError, match=r"one of \['brats2012-2015'"):
        find_cases(cohort, schema="brats")


def test_masks_can_be_left_out_whatever_they_hold(cohort):
    assert [case.labels_path for case in find_cases(cohort, use_labels=False)] == [None, None]
    with pytest.raises(ValueError, match="Leave one of them out"):
        find_cases(cohort, use_labels=False, require_labels=True)


def test_a_missing_file_is_asked_for_under_the_name_of_its_edition(tmp_path, write_case):
    write_case(tmp_path, "a", shape=SHAPE)
    for old, new in {"flair": "t2f", "t1": "t1n", "t2": "t2w"}.items():
        (tmp_path / "a" / f"a_{old}.nii.gz").rename(tmp_path / "a" / f"a-{new}.nii.gz")
    (tmp_path / "a" / "a_t1ce.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"a lacks t1ce.*Add a-t1c\.nii\.gz"):
        find_cases(tmp_path)


@pytest.mark.parametrize("kind", ["GLI", "MET", "PED"])
def test_names_of_2024_are_those_of_2023(tmp_path, write_case, kind):
    case_id = f"BraTS-{kind}-00005-100"
    case = write_case(tmp_path, case_id, shape=SHAPE)
    for old, new in {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}.items():
        case.paths[old].rename(tmp_path / case_id / f"{case_id}-{new}.nii.gz")
    case.labels_path.rename(tmp_path / case_id / f"{case_id}-seg.nii.gz")
    (found,) = find_cases(tmp_path, schema="brats2024-gli", require_labels=True)
    assert found.id == case_id


# -- MSD Task01 ------------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path):
    """Lay out an MSD task whose channels hold their own number, and a test case without a mask."""
    root = tmp_path / "Task01_BrainTumour"
    image = np.stack([np.full(SHAPE, number, np.float32) for number in range(4)], axis=-1)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:5, 2, 1:3] = [[1, 2], [3, 3], [0, 1], [1, 1]]
    write_task(root, "BRATS_001", image, mask)
    write_task(root, "BRATS_485", image, None)
    for folder in ("imagesTr", "labelsTr"):  # what macOS left in the published archive
        (root / folder / "._BRATS_001.nii.gz").write_bytes(b"AppleDouble")
    (root / "._dataset.json").write_bytes(b"AppleDouble")
    return root


def test_an_msd_task_is_found_from_its_folder_its_parent_and_its_images(task):
    for folder in (task, task.parent):
        assert ids(find_cases(folder, schema="msd-task01")) == ["BRATS_001", "BRATS_485"]
    assert ids(find_cases(task / "imagesTr", schema="msd-task01")) == ["BRATS_001"]
    assert ids(find_cases(task / "imagesTs", schema="msd-task01")) == ["BRATS_485"]
    first, last = find_cases(task, schema="msd-task01")
    assert set(first.paths.values()) == {task / "imagesTr" / "BRATS_001.nii.gz"}
    assert first.labels_path == task / "labelsTr" / "BRATS_001.nii.gz"
    assert last.labels_path is None


def test_the_order_of_channels_is_read_and_never_supposed(task):
    scan = load_scan(find_cases(task, schema="msd-task01")[0])
    assert [channel.max() for channel in scan.image] == [0, 1, 2, 3]
    write_listing(task, modality={"0": "T2w", "1": "t1gd", "2": "T1w", "3": "FLAIR"})
    case = find_cases(task, schema="msd-task01")[0]
    assert case.channels == {"flair": 3, "t1": 2, "t1ce": 1, "t2": 0}
    assert [channel.max() for channel in load_scan(case).image] == [3, 2, 1, 0]


def test_msd_edema_is_edema(task):
    scan = load_scan(find_cases(task, schema="msd-task01")[0])
    assert np.bincount(scan.labels.ravel(), minlength=4)[1:].tolist() == [1, 4, 2]  # NCR ED ET


@pytest.mark.parametrize("wrong", ["brats2017-2021", "brats2023-gli", "brats2024-ped"])
def test_a_listing_that_contradicts_the_schema_names_the_one_that_fits(task, wrong):
    msg = rf"labels of .*dataset\.json must agree with schema '{wrong}' .*='msd-task01', or --ed"
    with pytest.raises(ValueError, match=msg):
        find_cases(task, schema=wrong)
    assert len(find_cases(task, schema=wrong, use_labels=False)) == 2  # to predict, no mask is read


def test_a_listing_in_another_order_is_another_schema(task):
    labels = {"0": "background", "1": "necrotic core", "2": "oedema", "3": "Enhancing tumour"}
    write_listing(task, labels=labels)
    with pytest.raises(ValueError, match="Declare it: schema='brats2023-gli'"):
        find_cases(task, schema="msd-task01")
    assert len(find_cases(task, schema="brats2023-gli")) == 2


@pytest.mark.parametrize("labels", [{}, {**TISSUES, "3": "kidney"}])
def test_a_listing_with_an_unknown_tissue_fits_no_schema(task, labels):
    write_listing(task, labels=labels)
    with pytest.raises(ValueError, match="No schema known here fits"):
        find_cases(task, schema="msd-task01")


def test_images_without_their_listing_are_refused(task):
    (task / "dataset.json").unlink()
    for folder in (task, task / "imagesTr"):
        with pytest.raises(FileNotFoundError, match=r"dataset\.json beside .*copy it from"):
            find_cases(folder, schema="msd-task01", use_labels=False)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"labels": {}}', '{"channel_names": ["FLAIR"]}', '{"modality": "MRI"}'],
)
def test_a_listing_of_another_kind_is_refused(task, content):
    (task / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"must be JSON with \"modality\""):
        find_cases(task, schema="msd-task01")


@pytest.mark.parametrize(
    "modality",
    [
        {"0": "FLAIR"},
        {"0": "T2", "1": "ADC"},
        {**AS_PUBLISHED, "1": "FLAIR"},
        {**AS_PUBLISHED, "4": "T1"},
        {},
    ],
)
def test_channels_that_are_not_the_four_modalities_are_refused(task, modality):
    write_listing(task, modality=modality)
    with pytest.raises(ValueError, match=r"must name FLAIR, T1w, t1gd, T2w, once each"):
        find_cases(task, schema="msd-task01")


def test_a_file_with_other_channels_than_listed_is_refused(task):
    image = np.zeros((*SHAPE, 3), np.float32)
    write_task(task, "BRATS_001", image, np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match=r"BRATS_001.* must have 4 channels.*got 3"):
        load_scan(find_cases(task, schema="msd-task01")[0])


def test_an_msd_task_beside_brats_folders_is_found_with_them(task, write_case):
    write_case(task.parent / "more", "a", shape=SHAPE, schema="msd-task01")
    assert ids(find_cases(task.parent, schema="msd-task01")) == ["BRATS_001", "BRATS_485", "a"]


def test_collected_files_of_a_task_become_cases_one_by_one(task):
    first = collect_files(task)[0]
    assert not first.missing
    assert not first.repeated
    assert as_case(first, schema=get_schema("msd-task01")).channels["t2"] == 3


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "ED", "2": "NET", "3": "ET"},
        {"background": 0, "edema": 1, "non_enhancing_tumor": 2, "enhancing_tumor": 3},
        {"background": "0", "ED": "1", "NCR/NET": "2", "GD-enhancing tumour": "3"},
        {"0": "Background", "1": "SNFH", "2": "Necrotic and non-enhancing core", "3": "ET"},
    ],
)
def test_tissues_are_known_under_every_usual_name_and_in_the_form_of_nnunet(task, labels):
    write_listing(task, labels=labels)
    assert len(find_cases(task, schema="msd-task01", require_labels=True)) == 1
    with pytest.raises(ValueError, match="Declare it: schema='msd-task01'"):
        find_cases(task, schema="brats2023-gli")


@pytest.mark.parametrize(
    "names",
    [
        ("FLAIR", "T1", "T1-Gd", "T2"),
        ("t2f", "t1n", "t1c", "t2w"),
        ("Flair", "T1_w", "T1_ce", "T2_w"),
    ],
)
def test_channels_are_known_under_every_usual_name_and_in_the_form_of_nnunet(task, names):
    content = {"channel_names": {str(at): name for at, name in enumerate(names)}, "labels": TISSUES}
    (task / "dataset.json").write_text(json.dumps(content))
    case = find_cases(task, schema="msd-task01")[0]
    assert case.channels == {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}


@pytest.mark.parametrize("labels", [{"background": 0, "whole tumor": [1, 2, 3]}, {"a": 1, "b": 1}])
def test_regions_do_not_say_which_integer_is_which_tissue(task, labels):
    write_listing(task, labels=labels)
    with pytest.raises(ValueError, match="name the tissues, or leave the masks out"):
        find_cases(task, schema="msd-task01")


@pytest.mark.parametrize("labels", [None, 3, {"whole tumor": [1, 2]}, {"0": "kidney"}])
def test_to_predict_nobody_asks_what_the_labels_mean(task, labels):
    write_listing(task, labels=labels)
    assert len(find_cases(task, use_labels=False)) == 2


@pytest.mark.parametrize("folders", [("imagesTr", "labelsTr"), ("imagesTs",)])
def test_the_raw_files_of_nnunet_are_refused_by_name(tmp_path, folders):
    for folder in folders:
        (tmp_path / folder).mkdir()
    for channel in range(4):
        (tmp_path / folders[0] / f"BraTS_001_{channel:04d}.nii.gz").touch()
    if "labelsTr" in folders:
        (tmp_path / "labelsTr" / "BraTS_001.nii.gz").touch()
    for use_labels in (True, False):
        with pytest.raises(ValueError, match=r"nnU-Net's raw files.*Rename those to <case>_flair"):
            find_cases(tmp_path, schema="msd-task01", use_labels=use_labels)


def test_a_case_numbered_with_four_digits_is_no_raw_file_of_nnunet(tmp_path):
    image, mask = np.ones((*SHAPE, 4), np.float32), np.zeros(SHAPE, np.uint8)
    for number in range(4):
        write_task(tmp_path, f"BRATS_{number:04d}", image, mask)
    assert len(find_cases(tmp_path, schema="msd-task01")) == 4


def test_test_images_alone_are_no_cases_with_masks(task):
    shutil.rmtree(task / "imagesTr")
    for folder in (task, task / "imagesTs"):
        with pytest.raises(ValueError, match=r"imagesTs alone.* holds imagesTr and labelsTr"):
            find_cases(folder, schema="msd-task01", require_labels=True)


def test_a_training_image_without_mask_is_refused_where_masks_are_wanted(task):
    (task / "labelsTr" / "BRATS_001.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"none for BRATS_001 .*Add labelsTr/BRATS_001\.nii\.gz"):
        find_cases(task, schema="msd-task01", require_labels=True)


# -- BraTS 2012-2015 -------------------------------------------------------------------------------


def test_volumes_of_2015_have_a_folder_each(tmp_path, rng):
    mask = rng.integers(0, 5, SHAPE).astype(np.uint8)
    write_2015(tmp_path / "HGG" / "brats_2013_pat0001_1", rng, mask)
    write_2015(tmp_path / "LGG" / "brats_tcia_pat101_0001", rng, None)
    cases = find_cases(tmp_path, schema="brats2012-2015")
    assert ids(cases) == ["brats_2013_pat0001_1", "brats_tcia_pat101_0001"]
    assert cases[0].paths["t1"].name == "VSD.Brain.XX.O.MR_T1.54513.mha"
    assert cases[0].paths["t1ce"].name == "VSD.Brain.XX.O.MR_T1c.54514.mha"
    assert cases[0].labels_path.name == "VSD.Brain_3more.XX.O.OT.54517.mha"
    assert cases[1].labels_path is None
    scan = load_scan(cases[0])
    assert np.array_equal(np.isin(scan.labels, (1,)).sum(), np.isin(mask, (1, 3)).sum())


def test_numbers_of_2013_are_told_apart_by_their_grade(tmp_path):
    for grade in ("HG", "LG"):
        home = tmp_path / grade / "0001" / "VSD.Brain.XX.O.MR_Flair"
        home.mkdir(parents=True)
        (home / "VSD.Brain.XX.O.MR_Flair.684.mha").touch()
    assert [files.id for files in collect_files(tmp_path)] == ["HG_0001", "LG_0001"]


def test_the_two_class_masks_of_2012_are_not_mistaken_for_those_of_2013(tmp_path):
    for kind in ("FLAIR", "T1", "T1C", "T2", "truth"):
        (tmp_path / f"BRATS_HG0001_{kind}.mha").touch()
    with pytest.raises(ValueError, match="must hold at least one case"):
        find_cases(tmp_path, schema="brats2012-2015")


def test_a_volume_of_2015_that_is_missing_is_asked_for(tmp_path, rng):
    write_2015(tmp_path / "pat", rng, None)
    next(tmp_path.rglob("*MR_T2*.mha")).unlink()
    with pytest.raises(ValueError, match=r"pat lacks t2\. Add VSD\.Brain\.XX\.O\.MR_T2"):
        find_cases(tmp_path, schema="brats2012-2015")
    write_2015(tmp_path / "pat", rng, None)
    with pytest.raises(ValueError, match=r"none for pat .*Add pat/VSD\.Brain_3more\.XX\.O\.OT"):
        find_cases(tmp_path, schema="brats2012-2015", require_labels=True)


def test_the_misnamed_mask_of_kaggles_patient_355_keeps_its_own_name(tmp_path, write_case):
    case = write_case(tmp_path, "BraTS20_Training_355", shape=SHAPE, suffix=".nii")
    case.labels_path.rename(case.labels_path.with_name("W39_1998.09.19_Segm.nii"))
    (found,) = find_cases(tmp_path, require_labels=True)
    assert found.labels_path.name == "W39_1998.09.19_Segm.nii"
