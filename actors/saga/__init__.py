"""Sagas: long business flows as one coroutine whose steps are recorded, and undone if it does not end well.

``saga`` is what users write, ``context`` and ``step`` what their code awaits; ``progress`` and ``fold`` what is
recorded. ``turn`` is what one message does: enter there; ``replay`` runs the code over its recorded steps.
"""
