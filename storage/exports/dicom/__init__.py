"""Maps of a cohort as DICOM objects, in a folder or on a server."""
