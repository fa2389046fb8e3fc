"""Say which integer is which tissue in which edition, what WT, TC, ET are, and channel order."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

__all__ = [
    "LABELS",
    "MODALITIES",
    "PAINTED",
    "REGIONS",
    "SCHEMAS",
    "LabelSchema",
    "get_schema",
    "paint_regions",
    "schemas_containing",
    "schemas_named_in",
]

MODALITIES = ("flair", "t1", "t1ce", "t2")  # channel order, written into every checkpoint

LABELS = {0: "background", 1: "NCR", 2: "ED", 3: "ET"}  # internal labels, BraTS 2023 manual

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}  # BraTS 2017-2023 evaluation regions

# Regions in the order they are painted, the largest first, each with the label that it has and the
# next one has not: all of WT is edema until TC is painted over it, and TC necrosis until ET is.
PAINTED = {"WT": 2, "TC": 1, "ET": 3}

Array = TypeVar("Array")  # a NumPy array or a torch tensor: this file needs neither


@dataclass(frozen=True, kw_only=True)
class LabelSchema:
    """Declare what the integers of one edition's masks mean.

    Attributes:
        name: Name used in settings and on the command line.
        to_internal: Maps each integer allowed in a file to an internal label of `LABELS`.
            A value that is not a key is refused, never guessed. Several may mean one label.
        tissue: Names the tissue behind each integer of a file, for messages.
        outside: Integers that are known tissue but of no tumour region, named; read as background.
    """

    name: str
    to_internal: Mapping[int, int]
    tissue: Mapping[int, str]
    outside: Mapping[int, str] = field(default_factory=dict)

    @property
    def to_source(self) -> dict[int, int]:
        """Map each internal label back to the integer that this edition writes.

        Where several integers mean one internal label the first declared is written. An integer
        of `outside` never is: background stays what it was before such tissue was declared.

        Examples:
            >>> SCHEMAS["brats2012-2015"].to_source  # 1 and 3 are both NCR; 1 was declared first
            {0: 0, 1: 1, 2: 2, 3: 4}
            >>> SCHEMAS["brats2024-gli"].to_source[0]  # the cavity, 4, is not the background
            0
        """
        inverse: dict[int, int] = {}
        for source, internal in self.to_internal.items():
            if source not in self.outside:
                inverse.setdefault(internal, source)
        return dict(sorted(inverse.items()))

    @property
    def as_written(self) -> "LabelSchema":
        """Return a schema that allows the same integers and leaves each of them as it is.

        For those who must see a mask before it is read: what is merged or put outside cannot be
        told apart afterwards.

        Examples:
            >>> SCHEMAS["brats2012-2015"].as_written.to_internal
            {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
        """
        return replace(self, to_internal={value: value for value in self.to_internal}, outside={})

    def refuse_unknown(self, values: Iterable[int], *, where: str) -> None:
        """Refuse integers that this edition does not define.

        Args:
            values: Integers found in a mask.
            where: Case id or path, for the message.

        Raises:
            ValueError: Names the values, the place and the schemas that do contain them.
        """
        found = sorted({int(value) for value in values})
        unknown = [value for value in found if value not in self.to_internal]
        if not unknown:
            return
        others = schemas_containing(found)
        hint = (
            f"Schemas that contain {found}: {', '.join(others)}."
            if others
            else "No schema contains them all: is this a tumour mask?"
        )
        named = schemas_named_in(where)
        if named and self.name not in named:
            hint += f" Its name is one of {' or '.join(named)}."
        msg = (
            f"labels of {where} must be in {sorted(self.to_internal)} (schema {self.name!r}); "
            f"got {unknown}. {hint}"
        )
        raise ValueError(msg)


SCHEMAS = {
    schema.name: schema
    for schema in (
        LabelSchema(  # Menze 2015, section III-D; BraTS 2014 and 2015 kept it
            name="brats2012-2015",
            to_internal={0: 0, 1: 1, 2: 2, 3: 1, 4: 3},
            tissue={0: "background", 1: "NCR", 2: "ED", 3: "NET", 4: "ET"},
        ),
        LabelSchema(  # BraTS 2017-2021 data descriptions: label 3 was retired, 4 is enhancing
            name="brats2017-2021",
            to_internal={0: 0, 1: 1, 2: 2, 4: 3},
            tissue={0: "background", 1: "NCR/NET", 2: "ED", 4: "ET"},
        ),
        LabelSchema(  # BraTS 2023 adult glioma: consecutive integers
            # The paediatric masks of 2023 hold 0-3 too (BrainMVP issue 8), and the official 2023
            # scorer reads them as it reads these (TC 1 and 3, ET 3), so this schema fits them; the
            # integers of brats2024-ped came a year later. BraTS-Africa follows this one as well.
            name="brats2023-gli",
            to_internal={0: 0, 1: 1, 2: 2, 3: 3},
            tissue={0: "background", 1: "NCR", 2: "ED", 3: "ET"},
        ),
        LabelSchema(  # BraTS 2023 metastases: Moawad 2023, arXiv 2306.00838
            name="brats2023-met",
            to_internal={0: 0, 1: 1, 2: 2, 3: 3},
            tissue={0: "background", 1: "NETC", 2: "SNFH", 3: "ET"},
        ),
        LabelSchema(  # BraTS 2024 glioma after treatment: de Verdier 2024, arXiv 2405.18368
            name="brats2024-gli",
            to_internal={0: 0, 1: 1, 2: 2, 3: 3, 4: 0},
            tissue={0: "background", 1: "NETC", 2: "SNFH", 3: "ET", 4: "resection cavity"},
            outside={4: "resection cavity"},  # in none of WT, TC, ET: rachitsaluja metrics_GLI.py
        ),
        LabelSchema(  # BraTS-PEDs 2024: Kazerooni 2024, arXiv 2404.15009; nnU-Net issue 3042
            name="brats2024-ped",
            to_internal={0: 0, 1: 3, 2: 1, 3: 1, 4: 2},
            tissue={0: "background", 1: "ET", 2: "NET", 3: "cyst", 4: "ED"},
        ),
        LabelSchema(  # Medical Segmentation Decathlon Task01, dataset.json: edema comes first
            name="msd-task01",
            to_internal={0: 0, 1: 2, 2: 1, 3: 3},
            tissue={0: "background", 1: "ED", 2: "NET", 3: "ET"},
        ),
    )
}


def get_schema(name: str | LabelSchema) -> LabelSchema:
    """Look a label schema up by name; a schema is returned as it is.

    Raises:
        ValueError: The name is unknown; the message lists the names that exist.

    Examples:
        >>> get_schema("brats2017-2021").to_source[3]
        4
    """
    if isinstance(name, LabelSchema):
        return name
    if name not in SCHEMAS:
        msg = f"schema must be one of {sorted(SCHEMAS)}; got {name!r}."
        raise ValueError(msg)
    return SCHEMAS[name]


def paint_regions(masks: Iterable[Array], onto: Array) -> Array:
    """Turn masks of WT, TC and ET into one label map: what makes labels of region targets.

    WT is painted as ED, then TC over it as NCR, then ET over that. **An outer region has the last
    word**: a voxel is TC only where it is WT too, and ET only where it is both, so that the masks
    nest (ET in TC in WT) before they are painted. nnU-Net paints without that, so that a lone ET
    voxel widens the two regions around it; here it is no tumour.

    Args:
        masks: Bool masks in the order of `PAINTED`, of the shape of `onto`; an iterator is taken
            one mask at a time.
        onto: Label map to paint on, background all over; changed in place.

    Returns:
        `onto`, in internal labels.

    Raises:
        ValueError: There are more or fewer than three masks.
    """
    nested = None
    for label, mask in zip(PAINTED.values(), masks, strict=True):
        nested = mask if nested is None else nested & mask
        onto[nested] = label
    return onto


# How the editions call their cases. Names say which edition a case came in, not what has since been
# done to its masks, so they are a hint in a refusal and nothing else. That of a glioma of 2023 and
# of 2024 is the same but for the time point.
_NAMED = {
    r"BraTS-GLI-\d": ("brats2023-gli", "brats2024-gli"),
    r"BraTS-MET-\d": ("brats2023-met",),
    r"BraTS-PED-\d": ("brats2023-gli", "brats2024-ped"),
    r"BraTS-SSA-\d": ("brats2023-gli",),
    r"BraTS(17|18|19|20|2021)_": ("brats2017-2021",),
    r"BRATS_\d{3}\b": ("msd-task01",),
    r"brats_(2013|tcia)_pat": ("brats2012-2015",),
}


def schemas_named_in(text: str) -> tuple[str, ...]:
    """Name the schemas of the editions that call their cases as one in the text; () for no such.

    Examples:
        >>> schemas_named_in("BraTS-PED-00181-000-seg.nii.gz")
        ('brats2023-gli', 'brats2024-ped')
        >>> schemas_named_in("Phantom_00003")
        ()
    """
    for pattern, names in _NAMED.items():
        if re.search(rf"\b{pattern}", text, re.IGNORECASE):
            return names
    return ()


def schemas_containing(values: Iterable[int]) -> list[str]:
    """Name the schemas that define every one of the given integers.

    Examples:
        >>> schemas_containing([0, 3, 4])
        ['brats2012-2015', 'brats2024-gli', 'brats2024-ped']
    """
    wanted = {int(value) for value in values}
    return [name for name, schema in SCHEMAS.items() if wanted <= set(schema.to_internal)]
