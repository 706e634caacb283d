"""Scores of a network: top-k and its interval."""
