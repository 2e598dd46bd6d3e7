"""The published recipe and its network, to stand beside."""
