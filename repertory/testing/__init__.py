"""For the tests of applications: histories that later code must still fold, and sagas by hand and in every way.

``golden`` keeps histories in their repository. ``saga_kit`` runs one saga by hand: enter there; ``explore`` runs it in
every way there is, and ``saga_trace`` runs again what they did, in another process.
"""
