"""Batches, protocols, losses, the training loop, and what is held out."""
