"""Shard sets: format, random access, tars behind a URL."""
