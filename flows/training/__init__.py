"""Training on simulated heads and on the store's own images, and its ablations."""
