"""A template brain: its tissues and labels, how it is brought to a session, and what that tells of signals."""
