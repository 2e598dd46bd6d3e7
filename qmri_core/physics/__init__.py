"""Signal models, one plain function per pulse-sequence family, and what headers mean for them."""
