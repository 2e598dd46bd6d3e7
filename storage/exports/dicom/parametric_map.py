"""A map as a Parametric Map: floating point, with its unit and quantity in codes."""

from __future__ import annotations

import numpy as np
from highdicom import Volume
from highdicom.pm import DerivedPixelContrastValues, ParametricMap
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from storage.exports.dicom.content import IN_SHORT, Map, derivation_of, instance_of, made_by, mapping_of, window_of
from storage.exports.dicom.quantities import number_of
from storage.exports.dicom.subject import Subject, uid_of
from storage.source.dicom.frames import OWN


def parametric_map(one: Map, subject: Subject, volume: Volume) -> Dataset:
    """The object of a map, whose values are those of the volume."""
    quantity = one.quantity
    computed = volume.array[np.isfinite(volume.array)]
    if one.zeros:
        volume = volume.with_array(np.nan_to_num(volume.array, nan=0.0))
    template = subject.begun()
    template.SOPClassUID, template.SOPInstanceUID = MRImageStorage, instance_of(one.series, 0)
    template.SeriesInstanceUID = one.series
    template.Rows, template.Columns = volume.array.shape[1:]
    template.ImagePositionPatient = list(volume.get_plane_position(0)[0].ImagePositionPatient)
    template.ImageOrientationPatient = list(volume.get_plane_orientation()[0].ImageOrientationPatient)
    measures = volume.get_pixel_measures()[0]
    template.PixelSpacing, template.SliceThickness = list(measures.PixelSpacing), measures.SliceThickness
    dataset = ParametricMap(
        [template],
        volume,
        series_instance_uid=one.series,
        series_number=number_of(quantity),
        sop_instance_uid=instance_of(one.series),
        instance_number=1,
        manufacturer=OWN,
        manufacturer_model_name=OWN,
        software_versions=made_by(one.record),
        device_serial_number="none",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            mapping_of(quantity, value_range=(float(computed.min()), float(computed.max())), slope=1.0, intercept=0.0)
        ],
        voi_lut_transformations=[window_of(quantity, computed)],
        content_label=quantity.label,
        content_description=IN_SHORT,
        content_creator_name=None,
        derived_pixel_contrast=(
            DerivedPixelContrastValues.STD_DEVIATION if quantity.is_uncertainty else DerivedPixelContrastValues.QUANTITY
        ),
        content_date=one.made.date(),
        content_time=one.made.time(),
        specific_character_set=subject.header.SpecificCharacterSet,
    )
    dataset._db_con.close()  # highdicom's table of the frames, which it never closes; nothing below asks for it
    for keyword in ("SourceImageSequence", "ReferencedSeriesSequence"):  # of the template, which is no image
        if keyword in dataset:
            del dataset[keyword]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for group in (shared, *dataset.PerFrameFunctionalGroupsSequence):
        if "DerivationImageSequence" in group:
            del group["DerivationImageSequence"]
    shared.DerivationImageSequence = [derivation_of(one, subject)]
    organization = uid_of("dimensions", one.series)
    dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    for index in dataset.DimensionIndexSequence:
        index.DimensionOrganizationUID = organization
    if one.zeros:
        dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = 0.0
    return dataset
