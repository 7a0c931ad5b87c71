"""The port to a log (``port``, ``record``, ``clock``) and its implementations: ``embedded`` and ``kafka``.

``connect`` opens the log that a URL names. All other code uses the port and imports neither implementation.
"""
