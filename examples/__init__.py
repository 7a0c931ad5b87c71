"""Examples to read and to run, in this order: ``counter``, ``ask_once``, ``front``, and the application ``banking``."""
