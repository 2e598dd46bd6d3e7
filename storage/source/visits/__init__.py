"""Which files are one session, of whom and when."""
