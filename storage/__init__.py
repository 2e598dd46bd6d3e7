"""Bytes at rest: DICOM and NIfTI readers and writers, de-identification, the cohort store."""
