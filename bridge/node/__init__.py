"""What surrounds the worker processes of one machine: their handle, their reports, and what they were handling.

Nothing here imports the loop or the system: a node watches workers, it does not run them.
"""
