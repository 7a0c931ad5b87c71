"""The port to a log (``port``, ``record``, ``clock``) and its implementations: ``embedded`` and ``kafka``.

``connect`` opens the log that a URL names. Everything above talks to the port and knows neither of the two.
"""
