"""For the tests of applications: ``golden`` keeps histories in their repository, which later code must still fold."""
