"""Supervision: decide purely what to do about failures, act in the process that asked.

The rules of this package:

- *Pure.* No clock, no randomness, no logging, no I/O: time arrives as ``now_s``, jitter is derived from a
  seed. The same functions run under the process tree, inside a worker for its shards, in the simulator and
  under Hypothesis. The exceptions are ``process.py`` and ``transport.py``, the shell over Thespian, which
  nothing here imports.
- *One place changes a phase*: `supervision.machine`, by a table. What a shell owes it is said in
  `supervision.tree`.
- *A failure is data*: strings, so that it crosses processes and outlives its exception.
- *Incarnations.* Every start has a number that was never used before; what an old incarnation says is
  ignored.
- *Bounded.* At most ``max_restarts`` within ``within_s``, then the level above decides; no history grows
  without bound.

Entities use `judge` alone; shards and workers are children of a `Tree` and go through `step`.
"""

from repertory.supervision.directive import Directive, Failure
from repertory.supervision.machine import step
from repertory.supervision.phase import PHASE_TABLE, Change, ChildPhase, phase_table_rst
from repertory.supervision.policy import PROCESS_FAILURES, Judgement, Policy, judge, restart
from repertory.supervision.restart import Backoff, add_restart, exhausted
from repertory.supervision.strategy import Strategy, affected
from repertory.supervision.tree import (
    Add,
    Child,
    Due,
    Escalate,
    Exited,
    Failed,
    Remove,
    Start,
    Started,
    Stop,
    StopRequested,
    Tree,
    TreeCommand,
    TreeEvent,
    TreePhase,
    WakeAfter,
)

__all__ = [
    "PHASE_TABLE",
    "PROCESS_FAILURES",
    "Add",
    "Backoff",
    "Change",
    "Child",
    "ChildPhase",
    "Directive",
    "Due",
    "Escalate",
    "Exited",
    "Failed",
    "Failure",
    "Judgement",
    "Policy",
    "Remove",
    "Start",
    "Started",
    "Stop",
    "StopRequested",
    "Strategy",
    "Tree",
    "TreeCommand",
    "TreeEvent",
    "TreePhase",
    "WakeAfter",
    "add_restart",
    "affected",
    "exhausted",
    "judge",
    "phase_table_rst",
    "restart",
    "step",
]
