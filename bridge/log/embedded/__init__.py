"""The embedded log: one SQLite file for the processes of a machine, or memory for one process.

``backend`` is the door; ``log`` is a worker's membership and its commits; ``compaction`` deletes superseded records;
``store`` is the connection, the only module that imports ``sqlite3``; ``schema`` has the tables and who should own
which shard.
"""
