"""Enhanced MR Image objects of simulated series: one multi-frame file, acquisition numbers in functional groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian

from qmri_core.physics.sequences import ECHO_TRAINS
from qmri_core.series.acquisition import PulseSequence
from qmri_core.simulation.acquired import AcquiredSeries, Role
from qmri_core.simulation.cohort import PlannedSession

_SIEMENS_FRAME = "SIEMENS MR SDI 02"
_PHILIPS_NESTED = "Philips MR Imaging DD 005"
_PHILIPS_SCALE = "Philips MR Imaging DD 001"
_STACK, _POSITION = Tag(0x0020, 0x9056), Tag(0x0020, 0x9057)
_FRAME_CONTENT = Tag(0x0020, 0x9111)
_NOT_AT_THE_TOP = frozenset(
    {
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceLocation", "SliceThickness",
        "SpacingBetweenSlices", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "EchoTrainLength",
        "NumberOfAverages", "ScanningSequence", "SequenceVariant", "ScanOptions", "SequenceName", "ImagingFrequency",
        "ImagedNucleus", "PixelBandwidth", "PercentSampling", "PercentPhaseFieldOfView", "RescaleType", "RescaleSlope",
        "InPlanePhaseEncodingDirection", "WindowCenter", "WindowWidth", "RescaleIntercept", "PixelData", "ImageType",
        "ImagesInAcquisition", "ReceiveCoilName", "TransmitCoilName",
    }
)  # fmt: skip
_PARTS = {"P": "PHASE", "R": "REAL", "I": "IMAGINARY"}


def enhanced(
    plan: PlannedSession, series: AcquiredSeries, slices: Sequence[FileDataset], *, number: int = 1
) -> FileDataset:
    """Put the classic slices of one series into one object, the way the vendor's software does.

    Siemens keeps TE, TI and TR in functional groups only and names intensity filters in a private group; Philips
    repeats a classic header with its private scale slope in every frame.

    Parameters
    ----------
    plan, series
        What the slices show.
    slices
        In the order of the frames, from `storage.simulated.writer.datasets`.
    number
        Instance number in the series.
    """
    first = slices[0]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    meta.MediaStorageSOPInstanceUID = UID(plan.uid("enhanced", series.number, number))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = first.file_meta.ImplementationClassUID
    ds = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    for element in first:
        if element.keyword not in _NOT_AT_THE_TOP and not element.tag.is_private:
            ds.add(element)
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedMRImageStorage, meta.MediaStorageSOPInstanceUID
    ds.InstanceNumber = number
    _describe(ds, series)
    if series.role is Role.REFORMAT:
        del ds.MRAcquisitionType  # of originals only
    when = f"{first.AcquisitionDate}{first.AcquisitionTime}"
    ds.AcquisitionDateTime, ds.AcquisitionDuration = when, 180.0
    organisation = plan.uid("dimensions", series.number, number)
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organisation)]
    ds.DimensionIndexSequence = [_index(organisation, _STACK), _index(organisation, _POSITION)]
    ds.NumberOfFrames = len(slices)
    ds.PixelData = b"".join(one.PixelData for one in slices)
    ds["PixelData"].VR = "OW"
    ds.SharedFunctionalGroupsSequence = [_shared(series, first)]
    ds.PerFrameFunctionalGroupsSequence = _frames(plan, series, slices, when)
    return ds


def _describe(ds: Dataset, series: AcquiredSeries) -> None:
    """Attributes of the whole object that say in words what kind of image it is."""
    kind = series.series.header.image_type
    is_derived = series.role is Role.REFORMAT
    ds.ImageType = [kind[0], "PRIMARY", "MPR" if is_derived else "P" if series.role is Role.PHASE else "M", "NONE"]
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique = "MPR" if is_derived else "NONE"
    ds.ComplexImageComponent = next((_PARTS[word] for word in kind if word in _PARTS), "MAGNITUDE")
    ds.AcquisitionContrast = "UNKNOWN"
    ds.ContentQualification, ds.ResonantNucleus = "PRODUCT", "1H"
    ds.ApplicableSafetyStandardAgency = "IEC"
    ds.PresentationLUTShape, ds.BurnedInAnnotation = "IDENTITY", "NO"
    ds.AcquisitionContextSequence = []
    if not is_derived:
        _describe_pulses(ds, series)


def _describe_pulses(ds: Dataset, series: AcquiredSeries) -> None:
    acquisition = series.series.acquisition
    is_train = acquisition.sequence in ECHO_TRAINS
    is_spin = is_train or acquisition.sequence is PulseSequence.SPIN_ECHO
    ds.EchoPulseSequence = "SPIN" if is_spin else "GRADIENT"
    ds.PulseSequenceName = series.series.codes.sequence_name or ("TSE" if is_train else "SE" if is_spin else "FFE")
    if is_spin:
        ds.MultipleSpinEcho = "YES" if is_train else "NO"
    if series.series.header.mr_acquisition_type == "3D":
        ds.CoverageOfKSpace = "FULL"
    for keyword in (
        "MultiPlanarExcitation", "PhaseContrast", "TimeOfFlightContrast", "EchoPlanarPulseSequence",
        "SaturationRecovery",
    ):  # fmt: skip
        setattr(ds, keyword, "NO")
    ds.SteadyStatePulseSequence = ds.SpectrallySelectedSuppression = ds.OversamplingPhase = ds.KSpaceFiltering = "NONE"
    ds.GeometryOfKSpaceTraversal, ds.SegmentedKSpaceTraversal = "RECTILINEAR", "PARTIAL" if is_train else "SINGLE"
    ds.RectilinearPhaseEncodeReordering = "LINEAR"
    ds.NumberOfKSpaceTrajectories = 1


def _shared(series: AcquiredSeries, first: FileDataset) -> Dataset:
    region = _item(CodeValue="12738006", CodingSchemeDesignator="SCT", CodeMeaning="Brain")
    return _item(
        MRTimingAndRelatedParametersSequence=[_timing(series, first)],
        MRModifierSequence=[_modifier(series)],
        MRReceiveCoilSequence=[_receive_coil(first)],
        MRTransmitCoilSequence=[
            _item(TransmitCoilName="Body", TransmitCoilManufacturerName="", TransmitCoilType="BODY")
        ],
        MRImagingModifierSequence=[
            _item(
                PixelBandwidth=first.PixelBandwidth,
                MagnetizationTransfer="NONE",
                BloodSignalNulling="NO",
                Tagging="NONE",
                TransmitterFrequency=float(first.ImagingFrequency),
            )
        ],
        MRAveragesSequence=[_item(NumberOfAverages="1")],
        MRFOVGeometrySequence=[
            _item(
                PercentSampling="100",
                PercentPhaseFieldOfView="100",
                InPlanePhaseEncodingDirection=first.InPlanePhaseEncodingDirection,
                MRAcquisitionFrequencyEncodingSteps=int(first.Columns),
                MRAcquisitionPhaseEncodingStepsInPlane=int(first.Rows),
                MRAcquisitionPhaseEncodingStepsOutOfPlane=1,
            )
        ],
        FrameAnatomySequence=[_item(FrameLaterality="U", AnatomicRegionSequence=[region])],
    )


def _timing(series: AcquiredSeries, first: FileDataset) -> Dataset:
    length = series.series.header.echo_train_length or 1
    is_train = series.series.acquisition.sequence in ECHO_TRAINS
    return _item(
        RepetitionTime=first.RepetitionTime,
        FlipAngle=first.FlipAngle,
        EchoTrainLength=length,
        RFEchoTrainLength=length if is_train else 0,
        GradientEchoTrainLength=0 if is_train else 1,
        GradientOutputType="DB_DT",
        GradientOutput=40.0,
        SpecificAbsorptionRateSequence=[
            _item(SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=0.5)
        ],
        OperatingModeSequence=[_item(OperatingModeType="GRADIENT", OperatingMode="IEC_NORMAL")],
    )


def _modifier(series: AcquiredSeries) -> Dataset:
    header, acquisition = series.series.header, series.series.acquisition
    result = _item(
        InversionRecovery="YES" if acquisition.inversion_time is not None else "NO",
        FlowCompensation="NONE",
        Spoiling="RF"
        if acquisition.sequence in (PulseSequence.MPRAGE, PulseSequence.SPOILED_GRADIENT_ECHO)
        else "NONE",
        T2Preparation="YES" if acquisition.t2_preparation_time else "NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    if acquisition.inversion_time is not None:  # Philips writes 0 where it hides the prepulse
        result.InversionTimes = (header.inversion_time or 0.0) * 1e3
    return result


def _receive_coil(first: FileDataset) -> Dataset:
    return _item(
        ReceiveCoilName=first.ReceiveCoilName,
        ReceiveCoilManufacturerName="",
        ReceiveCoilType="MULTICOIL",
        QuadratureReceiveCoil="NO",
        MultiCoilDefinitionSequence=[_item(MultiCoilElementName="HE1", MultiCoilElementUsed="YES")],
    )


def _frames(plan: PlannedSession, series: AcquiredSeries, slices: Sequence[FileDataset], when: str) -> list[Dataset]:
    result = []
    stack, place = 0, 0
    for index, one in enumerate(slices):
        if index == 0 or one.ImageOrientationPatient != slices[index - 1].ImageOrientationPatient:
            stack, place = stack + 1, 0
        place += 1
        frame = _item(
            MREchoSequence=[_item(EffectiveEchoTime=float(one.EchoTime))],
            MRImageFrameTypeSequence=[_frame_type(series)],
            FrameContentSequence=[
                _item(
                    FrameAcquisitionDateTime=when,
                    FrameReferenceDateTime=when,
                    FrameAcquisitionDuration=180000.0,
                    StackID=str(stack),
                    InStackPositionNumber=place,
                    TemporalPositionIndex=1,
                    DimensionIndexValues=[stack, place],
                )
            ],
            PlanePositionSequence=[_item(ImagePositionPatient=one.ImagePositionPatient)],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=one.ImageOrientationPatient)],
            PixelMeasuresSequence=[
                _item(
                    PixelSpacing=one.PixelSpacing,
                    SliceThickness=one.SliceThickness,
                    SpacingBetweenSlices=one.SpacingBetweenSlices,
                )
            ],
            FrameVOILUTSequence=[_item(WindowCenter=one.WindowCenter, WindowWidth=one.WindowWidth)],
        )
        frame.PixelValueTransformationSequence = [
            _item(
                RescaleIntercept=one.get("RescaleIntercept", "0"),
                RescaleSlope=one.get("RescaleSlope", "1"),
                RescaleType="US",
            )
        ]
        if plan.protocol.vendor == "Philips":
            frame.private_block(0x2005, _PHILIPS_NESTED, create=True).add_new(0x0F, "SQ", [_nested(one)])
        elif plan.protocol.vendor == "Siemens":
            words = Dataset()
            words.private_block(0x0021, _SIEMENS_FRAME, create=True).add_new(
                0x75, "CS", [word for word in series.series.header.image_type[2:] if word]
            )
            frame.private_block(0x0021, _SIEMENS_FRAME, create=True).add_new(0xFE, "SQ", [words])
        result.append(frame)
    return result


def _frame_type(series: AcquiredSeries) -> Dataset:
    top = Dataset()
    _describe(top, series)
    return _item(
        FrameType=top.ImageType,
        PixelPresentation=top.PixelPresentation,
        VolumetricProperties=top.VolumetricProperties,
        VolumeBasedCalculationTechnique=top.VolumeBasedCalculationTechnique,
        ComplexImageComponent=top.ComplexImageComponent,
        AcquisitionContrast=top.AcquisitionContrast,
    )


def _nested(one: FileDataset) -> Dataset:
    """Classic header of one frame, as Philips puts it into a private sequence."""
    result = Dataset()
    for keyword in (
        "ImageType", "SOPInstanceUID", "ScanningSequence", "SequenceVariant", "ScanOptions", "SliceThickness",
        "EchoTime", "NumberOfAverages", "ImagingFrequency", "ImagedNucleus", "SpacingBetweenSlices", "EchoTrainLength",
        "FlipAngle", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient", "PixelSpacing", "WindowCenter",
        "WindowWidth", "RescaleIntercept", "RescaleSlope", "RescaleType",
    ):  # fmt: skip
        if keyword in one:
            result.add(one[keyword])
    scale = one.get_private_item(0x2005, 0x0E, _PHILIPS_SCALE)
    block = result.private_block(0x2005, _PHILIPS_SCALE, create=True)
    block.add_new(0x0D, "FL", 0.0)
    block.add_new(0x0E, "FL", float(scale.value))
    return result


def _index(organisation: str, pointer: BaseTag) -> Dataset:
    return _item(
        DimensionOrganizationUID=organisation, DimensionIndexPointer=pointer, FunctionalGroupPointer=_FRAME_CONTENT
    )


def _item(**values: Any) -> Dataset:  # noqa: ANN401 - whatever the element takes
    result = Dataset()
    for keyword, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{keyword} {value} is not finite")
        setattr(result, keyword, value)
    return result
