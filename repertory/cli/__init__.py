"""The command ``repertory``."""
