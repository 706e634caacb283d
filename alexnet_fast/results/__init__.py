"""Run folders and checkpoints -> numbers, tables and figures."""
