"""Examples to read and to run, in this order.

``counter``, ``ask_once``, ``front``, ``expiry``, ``webhook``, ``recurring``, ``projection``, ``source``, ``saga``,
``approval``, and the application ``banking``. ``transfer_by_hand`` is what a saga of the bank replaces.
"""
