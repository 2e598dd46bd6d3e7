"""What a DICOM file holds: elements, header, frames and pixels."""
