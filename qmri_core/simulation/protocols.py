"""Protocol groups of the simulated cohort: what their headers say, and the true acquisition that headers hide."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from qmri_core.physics.flip_trains import variable_flip_train
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence, SeriesHeader

_MILLI = 1e-3
_SEQUENCES: Mapping[str, PulseSequence] = {
    "mprage_t1w": PulseSequence.MPRAGE,
    "spgr_t1w": PulseSequence.SPOILED_GRADIENT_ECHO,
    "se2d_t1w": PulseSequence.SPIN_ECHO,
    "tse2d_t1w": PulseSequence.TURBO_SPIN_ECHO,
    "tse2d_t2w": PulseSequence.TURBO_SPIN_ECHO,
    "t1flair2d": PulseSequence.INVERSION_RECOVERY_TSE,
    "flair2d": PulseSequence.INVERSION_RECOVERY_TSE,
    "tse3d_t2w": PulseSequence.VARIABLE_FLIP_TSE,
    "flair3d": PulseSequence.VARIABLE_FLIP_TSE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Coded header values of a vendor's sequence: DICOM ScanningSequence, SequenceVariant, ScanOptions, a name."""

    scanning_sequence: tuple[str, ...]
    sequence_variant: tuple[str, ...]
    scan_options: tuple[str, ...] = ()
    sequence_name: str = ""
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D")


_GE_TYPE = ("ORIGINAL", "PRIMARY", "OTHER")
_GE_OPTIONS = ("FAST_GEMS", "EDR_GEMS", "FILTERED_GEMS", "ACC_GEMS")


def _philips(kind: str) -> tuple[str, ...]:
    return ("ORIGINAL", "PRIMARY", f"M_{kind}", "M", kind)


_CODES: Mapping[tuple[str, str], Codes] = {
    ("Siemens", "mprage_t1w"): Codes(
        scanning_sequence=("GR", "IR"), sequence_variant=("SK", "SP", "MP"), scan_options=("IR",),
        sequence_name="*tfl3d1_16ns",
    ),
    ("Siemens", "spgr_t1w"): Codes(
        scanning_sequence=("GR",), sequence_variant=("SP", "OSP"), sequence_name="*fl2d1"
    ),
    ("Siemens", "se2d_t1w"): Codes(
        scanning_sequence=("SE",), sequence_variant=("SP", "OSP"), sequence_name="*se2d1"
    ),
    ("Siemens", "tse2d_t1w"): Codes(
        scanning_sequence=("SE",), sequence_variant=("SK", "SP", "OSP"), sequence_name="*tse2d1_3"
    ),
    ("Siemens", "tse2d_t2w"): Codes(
        scanning_sequence=("SE",), sequence_variant=("SK", "SP", "OSP"), sequence_name="*tse2d1_15"
    ),
    ("Siemens", "flair2d"): Codes(
        scanning_sequence=("SE", "IR"), sequence_variant=("SK", "SP", "MP", "OSP"), scan_options=("IR", "FS"),
        sequence_name="*tir2d1_16fs",
    ),
    ("Siemens", "tse3d_t2w"): Codes(
        scanning_sequence=("SE",), sequence_variant=("SK", "SP"), scan_options=("PFP",), sequence_name="*spc_314ns"
    ),
    ("Siemens", "flair3d"): Codes(
        scanning_sequence=("SE", "IR"), sequence_variant=("SK", "SP", "MP"), scan_options=("IR", "PFP", "FS"),
        sequence_name="*spcir_278ns",
    ),
    ("Philips", "mprage_t1w"): Codes(
        scanning_sequence=("GR",), sequence_variant=("MP",), scan_options=("OTHER",), image_type=_philips("FFE")
    ),
    ("Philips", "spgr_t1w"): Codes(
        scanning_sequence=("GR",), sequence_variant=("SS",), scan_options=("OTHER",), image_type=_philips("FFE")
    ),
    ("Philips", "se2d_t1w"): Codes(
        scanning_sequence=("SE",), sequence_variant=("SS",), scan_options=("OTHER",), image_type=_philips("SE")
    ),
    ("Philips", "tse2d_t2w"): Codes(
        scanning_sequence=("SE",), sequence_variant=("SK",), scan_options=("OTHER",), image_type=_philips("SE")
    ),
    ("Philips", "tse3d_t2w"): Codes(
        scanning_sequence=("SE",), sequence_variant=("SK",), scan_options=("OTHER",), image_type=_philips("SE")
    ),
    ("Philips", "flair2d"): Codes(
        scanning_sequence=("IR",), sequence_variant=("SK",), scan_options=("FS",), image_type=_philips("IR")
    ),
    ("Philips", "flair3d"): Codes(
        scanning_sequence=("IR",), sequence_variant=("SK",), scan_options=("FS",), image_type=_philips("IR")
    ),
    ("GE", "mprage_t1w"): Codes(
        scanning_sequence=("GR",), sequence_variant=("SS", "SP", "SK"), scan_options=(*_GE_OPTIONS, "IR_GEMS"),
        sequence_name="efgre3d", image_type=_GE_TYPE,
    ),
    ("GE", "tse2d_t2w"): Codes(
        scanning_sequence=("SE",), sequence_variant=("SK",), scan_options=(*_GE_OPTIONS, "TRF_GEMS"),
        sequence_name="fse-xl", image_type=_GE_TYPE,
    ),
    ("GE", "flair2d"): Codes(
        scanning_sequence=("SE", "IR"), sequence_variant=("SK",), scan_options=(*_GE_OPTIONS, "FS", "T2FLAIR_GEMS"),
        sequence_name="fse-xl", image_type=_GE_TYPE,
    ),
    ("GE", "t1flair2d"): Codes(
        scanning_sequence=("SE", "IR"), sequence_variant=("SK",), scan_options=(*_GE_OPTIONS, "IR_GEMS"),
        sequence_name="fse-xl", image_type=_GE_TYPE,
    ),
    ("GE", "flair3d"): Codes(
        scanning_sequence=("SE", "IR"), sequence_variant=("SK",), scan_options=(*_GE_OPTIONS, "IR_GEMS"),
        sequence_name="Cube", image_type=_GE_TYPE,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceGeometry:
    """How a series lies in the head: ``plane`` is ``axial`` or ``sagittal``; millimetres."""

    plane: str
    in_plane: float
    thickness: float
    gap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSeries:
    """One series of a protocol.

    ``header`` holds what the files say, with the vendor's meaning; ``acquisition`` what the scanner did.
    ``prepulse_delay`` (seconds) stands in a private field of Philips only; ``codes`` are the header's coded strings.
    """

    header: SeriesHeader
    acquisition: Acquisition
    geometry: SliceGeometry
    codes: Codes
    prepulse_delay: float | None = None

    @property
    def contrast(self) -> Contrast:
        """What the series is."""
        return self.acquisition.contrast


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedProtocol:
    """A protocol on a scanner model.

    ``vendor`` is ``Siemens``, ``Philips`` or ``GE``; ``manufacturer``, ``model`` and ``software`` are spelled as in
    headers, software versions separated by backslashes. ``series`` is in the order T1w, T2w, FLAIR. ``objects`` says
    whether the scanner writes ``classic`` or ``enhanced`` DICOM objects, ``transfer_syntax`` what its archive stores
    (a name of `storage.simulated.encoding.SYNTAXES`).
    """

    name: str
    vendor: str
    manufacturer: str
    model: str
    software: str
    objects: str
    transfer_syntax: str
    series: tuple[SimulatedSeries, ...]


@cache
def protocol_table() -> tuple[SimulatedProtocol, ...]:
    """All protocols of ``protocols.csv``, in the order in which a cohort takes them."""
    with (resources.files(__package__) / "protocols.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = dict.fromkeys(row["group"] for row in rows)
    return tuple(_protocol([row for row in rows if row["group"] == name]) for name in names)


def _protocol(rows: list[dict[str, str]]) -> SimulatedProtocol:
    first = rows[0]
    vendor = next(v for v in ("Siemens", "Philips", "GE") if first["manufacturer"].lower().startswith(v.lower()))
    return SimulatedProtocol(
        name=first["group"],
        vendor=vendor,
        manufacturer=first["manufacturer"],
        model=first["model"],
        software=first["software"].replace("|", "\\"),
        objects=first["objects"],
        transfer_syntax=first["transfer_syntax"],
        series=tuple(_series(vendor, row) for row in rows),
    )


def _series(vendor: str, row: Mapping[str, str]) -> SimulatedSeries:
    codes = _CODES[vendor, row["family"]]
    inversion = _number(row["inversion_time_ms"], _MILLI)
    is_hidden = vendor == "Philips" and row["family"] == "mprage_t1w"
    header = SeriesHeader(
        manufacturer=vendor,
        model="-".join(row["model"].lower().replace("_", " ").split()),
        magnetic_field_strength=float(row["field_tesla"]),
        mr_acquisition_type=row["acquisition"],
        scanning_sequence=codes.scanning_sequence,
        sequence_variant=codes.sequence_variant,
        scan_options=codes.scan_options,
        image_type=codes.image_type,
        repetition_time=float(row["repetition_time_ms"]) * _MILLI,
        echo_time=float(row["echo_time_ms"]) * _MILLI,
        inversion_time=None if is_hidden else inversion,
        flip_angle=math.radians(float(row["flip_angle_deg"])),
        echo_train_length=int(row["echo_train_length"]),
    )
    return SimulatedSeries(
        header=header,
        acquisition=_acquisition(vendor, row, header, inversion),
        geometry=SliceGeometry(
            plane=row["plane"],
            in_plane=float(row["in_plane_mm"]),
            thickness=float(row["thickness_mm"]),
            gap=float(row["gap_mm"]),
        ),
        codes=codes,
        prepulse_delay=inversion if is_hidden else None,
    )


def _acquisition(vendor: str, row: Mapping[str, str], header: SeriesHeader, inversion: float | None) -> Acquisition:
    """Say what the scanner did; a vendor's inversion time is brought to the meaning that `Acquisition` has."""
    family = row["family"]
    spacing = _number(row["true_echo_spacing_ms"], _MILLI)
    length = int(row["true_train_length"]) if row["true_train_length"] else None
    centre = int(row["true_centre_index"]) if row["true_centre_index"] else None
    is_train = family not in ("mprage_t1w", "spgr_t1w", "se2d_t1w")
    echo_time = header.echo_time
    if is_train and spacing is not None and centre is not None:
        echo_time = spacing * centre
    if family == "mprage_t1w" and vendor == "GE" and inversion and spacing and centre:
        inversion += (centre - 1) * spacing
    train = _train(row["true_train_deg"], length, centre)
    refocusing = _number(row["true_refocusing_deg"], math.pi / 180)
    return Acquisition(
        contrast=Contrast(row["contrast"]),
        sequence=_SEQUENCES[family],
        field_strength=float(row["field_tesla"]),
        repetition_time=float(row["true_cycle_ms"]) * _MILLI,
        echo_time=float(echo_time or 0.0),
        flip_angle=math.pi / 2 if is_train else float(header.flip_angle or 0.0),
        inversion_time=inversion,
        refocusing_angle=max(train) if train else refocusing,
        echo_spacing=spacing,
        echo_train_length=length,
        centre_index=centre,
        flip_train=train,
        ramp=family in ("tse2d_t2w", "flair2d"),
        t2_preparation_time=float(row["true_t2_preparation_ms"]) * _MILLI,
        inversion_efficiency=float(row["true_inversion_efficiency"]),
        refocusing_factor=float(row["true_refocusing_factor"]),
    )


def _train(angles: str, length: int | None, centre: int | None) -> tuple[float, ...]:
    """Refocusing train from its least, central and largest angle in degrees; empty where there is none."""
    if not angles or length is None or centre is None:
        return ()
    minimum, central, maximum = (math.radians(float(angle)) for angle in angles.split())
    return variable_flip_train(length, centre, minimum=minimum, centre=central, maximum=maximum)


def _number(text: str, factor: float) -> float | None:
    return float(text) * factor if text else None
