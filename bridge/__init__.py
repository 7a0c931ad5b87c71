"""The bridge between logs and actors: consumed records become envelopes, turn results become transactions.

Read ``loop.py`` first: one record's journey from top to bottom. Its neighbours are the rest of that journey:

- ``region`` and ``assigned_shard``: the shards of one worker, and the phase that each is in;
- ``recovery`` and ``journal``: from the log to a shard;
- ``codec``, ``headers``, ``topics``: bytes and meaning, and where they are kept;
- ``worker``: the processes of a node; ``worker_log``: what an operator sees of a worker.

The rooms: ``log`` is the port to a log with its two implementations, ``node`` is what surrounds the worker processes of
one machine, ``system`` is where an application begins.
"""
