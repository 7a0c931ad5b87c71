"""The bridge between logs and actors: consumed records become envelopes, turn results become transactions.

Read ``loop.py`` first: it handles a record from top to bottom. The modules beside it:

- ``region`` and ``assigned_shard``: the shards of one worker, and the phase of each;
- ``recovery`` and ``journal``: restore a shard from the log;
- ``codec`` and ``topics``: the encoding of records, and the topics that hold them;
- ``nontransactional``: what is different at least once;
- ``worker``: the processes of a node; ``worker_log``: a worker's log lines and reports.

The subpackages: ``log`` is the port to a log with its two implementations, ``node`` manages the worker processes of one
machine, ``system`` contains what an application uses.
"""
