"""What is counted by reason beside files, and is none; apart from their readers, which bring libraries of 36 MB."""

UNREAD_SESSION = "unread_session"
"""Sessions by their BIDS names of which no image can be read."""

UNREADABLE_FOLDER = "unreadable_folder"
"""Folders that cannot be listed; nobody knows how many files they hold."""
