"""A server of DICOM images as a source: its studies are listed, their headers judged, and what is used retrieved."""
