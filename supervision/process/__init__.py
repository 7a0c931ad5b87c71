"""The process tree over Thespian: a node, its Guardian and the worker processes. The only package that imports it.

Enter at ``node`` (``run_node``). It forks the ``guardian``, which supervises one ``supervised`` process per worker.

- ``work``: the contract of the work in a supervised process; ``reports``: what the processes report, and how.
- ``messages``: the control messages; ``worker_process``: a worker's process as the Guardian sees it.
- ``lineage`` ties the processes together; ``actor_process`` undoes Thespian's changes to them; ``transport`` makes its
  sockets safe; ``proc`` inspects other processes of this machine.
"""
