"""Examples to read and to run, in this order.

``counter``, ``ask_once``, ``front``, ``expiry``, ``webhook``, ``recurring``, ``projection``, ``source``, and the
application ``banking``.
"""
