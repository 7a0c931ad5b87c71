"""Committed records in human-readable form: values, keys, shards and nodes."""
