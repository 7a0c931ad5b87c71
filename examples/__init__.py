"""Examples to read and to run, in this order.

``counter``, ``ask_once``, ``front``, ``expiry``, ``recurring``, and the application ``banking``.
"""
