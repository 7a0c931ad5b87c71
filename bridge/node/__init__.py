"""A node of worker processes on one machine: its handle, its reports and status, and the commands in flight.

Enter at ``handle``. It starts the node (``bridge.worker``) and reads its ``report_stream``; ``status`` and ``metrics``
are made from the reports, and ``publisher`` writes them to the log. ``in_flight`` belongs to the workers. Nothing here
imports the loop or the system: a node watches workers and does not run them.
"""
