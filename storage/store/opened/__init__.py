"""An opened cohort as analysts use it: ``open_cohort(...).qmri``."""
