"""Levels of sites that share no image: a store's export, the solution of several, and what a store takes back."""
