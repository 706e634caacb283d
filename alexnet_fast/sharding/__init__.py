"""Images on disk -> a shard set."""
