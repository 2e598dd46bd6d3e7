"""The command ``qmri``."""
