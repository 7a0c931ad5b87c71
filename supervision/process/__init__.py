"""The shell over Thespian: a Guardian and the worker processes that it supervises. The only package that imports it."""
