"""Sources: records of foreign topics become commands, exactly once.

Enter at ``loop``. ``relay`` decides what becomes of a record, ``checks`` from where a topic is read, ``position`` is
what is written: all three are pure. In between, ``relay_shard`` is one partition of ``{system}.sources``, which a
process claims as a worker claims a shard, and ``partition`` one partition of a source in it.
"""
