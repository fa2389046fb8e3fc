"""Say which integer is which tissue in which edition, what WT, TC, ET are, and channel order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = [
    "LABELS",
    "MODALITIES",
    "REGIONS",
    "SCHEMAS",
    "LabelSchema",
    "get_schema",
    "schemas_containing",
]

MODALITIES = ("flair", "t1", "t1ce", "t2")  # channel order, written into every checkpoint

LABELS = {0: "background", 1: "NCR", 2: "ED", 3: "ET"}  # internal labels, BraTS 2023 manual

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}  # BraTS 2017-2023 evaluation regions


@dataclass(frozen=True, kw_only=True)
class LabelSchema:
    """Declare what the integers of one edition's masks mean.

    Attributes:
        name: Name used in settings and on the command line.
        to_internal: Maps each integer allowed in a file to an internal label of `LABELS`.
            A value that is not a key is refused, never guessed.
        tissue: Names the tissue behind each integer of a file, for messages.
    """

    name: str
    to_internal: Mapping[int, int]
    tissue: Mapping[int, str]

    @property
    def to_source(self) -> dict[int, int]:
        """Map each internal label back to the integer that this edition writes."""
        return {internal: source for source, internal in self.to_internal.items()}

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
        msg = (
            f"labels of {where} must be in {sorted(self.to_internal)} (schema {self.name!r}); "
            f"got {unknown}. {hint}"
        )
        raise ValueError(msg)


SCHEMAS = {
    schema.name: schema
    for schema in (
        LabelSchema(  # BraTS 2017-2021 data descriptions: label 3 was retired, 4 is enhancing
            name="brats2017-2021",
            to_internal={0: 0, 1: 1, 2: 2, 4: 3},
            tissue={0: "background", 1: "NCR/NET", 2: "ED", 4: "ET"},
        ),
        LabelSchema(  # BraTS 2023 adult glioma: consecutive integers
            name="brats2023-gli",
            to_internal={0: 0, 1: 1, 2: 2, 3: 3},
            tissue={0: "background", 1: "NCR", 2: "ED", 3: "ET"},
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


def schemas_containing(values: Iterable[int]) -> list[str]:
    """Name the schemas that define every one of the given integers.

    Examples:
        >>> schemas_containing([0, 4])
        ['brats2017-2021']
    """
    wanted = {int(value) for value in values}
    return [name for name, schema in SCHEMAS.items() if wanted <= set(schema.to_internal)]
