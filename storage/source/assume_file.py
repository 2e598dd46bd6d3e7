"""What a user states in the ``--assume`` file.

Entries with ``match`` fill headers that are silent, in the names and units of BIDS. Entries with ``group`` override
parameters of the signal models of one group, in the names and units of those models.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qmri_core.series.acquisition import Contrast, SeriesHeader
from storage.source.dicom.header import code_words, field_strength, manufacturer_of, slug

Words = str | tuple[str, ...]


class AssumptionError(ValueError):
    """The assume file cannot be read or says something impossible."""


class Parameters(BaseModel):
    """Acquisition parameters by their BIDS names: seconds, degrees, tesla."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    Manufacturer: str | None = None
    ManufacturersModelName: str | None = None
    MagneticFieldStrength: Annotated[float, Field(gt=0, le=15)] | None = None
    MRAcquisitionType: Literal["2D", "3D"] | None = None
    ScanningSequence: Words | None = None
    SequenceVariant: Words | None = None
    ScanOptions: Words | None = None
    RepetitionTime: Annotated[float, Field(gt=0, le=30)] | None = None
    EchoTime: Annotated[float, Field(gt=0, lt=1)] | None = None
    InversionTime: Annotated[float, Field(gt=0, le=10)] | None = None
    FlipAngle: Annotated[float, Field(gt=0, le=180)] | None = None
    EchoTrainLength: Annotated[int, Field(gt=0)] | None = None


class Assumption(BaseModel):
    """One entry of the assume file: for the paths that ``match``, relative to the source, the rest is assumed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: Annotated[str, Field(min_length=1, repr=False)]
    contrast: Contrast | None = None
    parameters: Parameters = Parameters()


class Override(BaseModel):
    """One entry of the assume file: in the groups that ``group`` matches, the contrast's model has these parameters.

    ``group`` is a glob on the whole key of scanner and protocol; the names in ``model`` are those of
    `qmri_core.physics.header.OVERRIDES`, in seconds, radians and tesla.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: Annotated[str, Field(min_length=1)]
    contrast: Contrast
    model: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]

    @field_validator("model")
    @classmethod
    def _known(cls, model: dict[str, float]) -> dict[str, float]:
        from qmri_core.physics.header import OVERRIDES  # takes seconds, and most files override nothing

        unknown = sorted(set(model) - OVERRIDES)
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not among {', '.join(sorted(OVERRIDES))}")
        return model


def load_entries(path: Path) -> tuple[Assumption | Override, ...]:
    """Read a YAML list of ``{match, contrast, parameters}`` and ``{group, contrast, model}``, in its order.

    Raises
    ------
    AssumptionError
        Naming the entry and the field that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AssumptionError(f"assume file {path} cannot be read as YAML: {type(error).__name__}") from error
    if not isinstance(content, list | None):
        raise AssumptionError(f"assume file {path}: it must be a list of entries, each with match or group")
    return tuple(_entry(item, f"assume file {path}: entry {number}") for number, item in enumerate(content or (), 1))


@dataclass(frozen=True, slots=True)
class Stated:
    """What a user states: all entries of an assume file in their order, none without a file."""

    entries: tuple[Assumption | Override, ...] = ()

    @classmethod
    def by(cls, path: Path | None) -> Stated:
        """What a file states; raises as `load_entries`."""
        return cls() if path is None else cls(load_entries(path))

    @property
    def assumptions(self) -> list[Assumption]:
        """Entries with ``match``."""
        return [entry for entry in self.entries if isinstance(entry, Assumption)]

    @property
    def overrides(self) -> list[Override]:
        """Entries with ``group``."""
        return [entry for entry in self.entries if isinstance(entry, Override)]


def load_assumptions(path: Path) -> tuple[Assumption, ...]:
    """Entries with ``match`` of an assume file; see `load_entries`."""
    return tuple(Stated.by(path).assumptions)


def load_overrides(path: Path) -> tuple[Override, ...]:
    """Entries with ``group`` of an assume file; see `load_entries`."""
    return tuple(Stated.by(path).overrides)


def _entry(item: object, where: str) -> Assumption | Override:
    if not isinstance(item, dict) or ("match" in item) == ("group" in item):
        raise AssumptionError(
            f"{where} must have exactly one of match (a glob on the path relative to the source; with contrast and "
            "parameters) and group (a glob on a group's key as inspect prints it; with contrast and model)"
        )
    try:
        return Assumption.model_validate(item) if "match" in item else Override.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        hint = "; times are in seconds, angles in degrees" if first["type"].startswith(("less", "greater")) else ""
        raise AssumptionError(
            f"{where}: {field}: {first['msg']}{hint}; an entry has match (a glob on the path relative to the source), "
            "contrast (T1w, T2w or FLAIR) and parameters, or group (a glob on its key), contrast and model (in seconds "
            "and radians)"
        ) from None


def overriding(overrides: Sequence[Override], group: str, contrast: Contrast) -> Override | None:
    """First override whose glob matches the key of a group, for one contrast."""
    return next((one for one in overrides if one.contrast is contrast and fnmatch.fnmatchcase(group, one.group)), None)


def matching(assumptions: Sequence[Assumption], relative: str) -> int | None:
    """Index of the first assumption whose glob matches a path relative to the source."""
    for index, assumption in enumerate(assumptions):
        if fnmatch.fnmatchcase(relative, assumption.match) or PurePosixPath(relative).match(assumption.match):
            return index
    return None


def header_of(values: Mapping[str, Any]) -> SeriesHeader:
    """Header in SI units from the names and units of a BIDS sidecar; what is absent or unusable stays empty."""
    angle = _float(values.get("FlipAngle"))
    length = _float(values.get("EchoTrainLength"))
    model = str(values.get("ManufacturersModelName") or "")
    kind = str(values.get("MRAcquisitionType") or "")
    return SeriesHeader(
        manufacturer=manufacturer_of(str(values.get("Manufacturer") or ""), model),
        model=slug(model),
        magnetic_field_strength=field_strength(
            _float(values.get("MagneticFieldStrength")), _float(values.get("ImagingFrequency"))
        ),
        mr_acquisition_type=kind if kind in {"2D", "3D"} else "",
        scanning_sequence=_codes(values.get("ScanningSequence"), {"SE", "IR", "GR", "EP", "RM"}),
        sequence_variant=_codes(values.get("SequenceVariant"), {"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP"}),
        image_type=code_words(values.get("ImageType")),
        repetition_time=_float(values.get("RepetitionTime")),
        echo_time=_float(values.get("EchoTime")),
        inversion_time=_float(values.get("InversionTime")),
        flip_angle=None if angle is None else math.radians(angle),
        echo_train_length=None if length is None else int(length),
    )


def fill(header: SeriesHeader, parameters: Parameters) -> SeriesHeader:
    """Fill what the header lacks from the parameters, marked as assumed; a header's own value stays."""
    stated = header_of(parameters.model_dump())
    changes = {}
    for item in fields(SeriesHeader):
        value = getattr(stated, item.name)
        if item.name != "assumed" and getattr(header, item.name) in (None, "", ()) and value not in (None, "", ()):
            changes[item.name] = value
    return replace(header, **changes, assumed=header.assumed | frozenset(changes)) if changes else header


def _float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return None
    return number if math.isfinite(number) and number > 0 else None


def _codes(value: object, known: set[str]) -> tuple[str, ...]:
    words = value.replace("\\", "_").split("_") if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        return ()
    return tuple(dict.fromkeys(word for word in (str(item).strip().upper() for item in words) if word in known))
