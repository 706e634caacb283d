"""A shard set -> batches on the training device."""
