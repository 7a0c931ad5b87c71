"""The kernel of one shard: pure, no clock, no I/O. Read ``shard`` first, then ``turn`` and ``decision``."""
