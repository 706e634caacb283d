"""Batches -> a run folder."""
