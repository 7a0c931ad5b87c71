"""Supervision: pure decisions about failures. The process that asks for a decision carries it out.

The rules of this package:

- *Pure.* No clock, no random numbers, no logging, no I/O: the time is passed as ``now_s``, and jitter is derived from a
  seed. The same functions run in the process tree, in a worker for its shards, in the simulator and under Hypothesis.
  The exception is the subpackage ``process``, the shell over Thespian. No module beside it imports it.
- *Only `supervision.machine` changes a phase*, by a table. The obligations of a shell are listed in `supervision.tree`.
- *A failure is data*: strings, so that it crosses processes and outlives its exception.
- *Incarnations.* Every start has a number that was never used before. Events of an earlier incarnation are ignored.
- *Bounded.* At most ``max_restarts`` within ``within_s``; after that the level above decides. Each history is bounded.

Entities only use `judge`; shards and workers are children of a `Tree` and are supervised by `step`.
"""

from repertory.supervision.directive import Directive, Failure
from repertory.supervision.machine import step
from repertory.supervision.phase import PHASE_TABLE, ChildChange, ChildPhase, phase_table_rst
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
    "Child",
    "ChildChange",
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
