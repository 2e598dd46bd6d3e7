"""From a source tree to stored images: plans, sessions, rows of the catalogue, inspection."""
