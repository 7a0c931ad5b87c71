"""Check the records that a system has written to a log against its guarantees; the command ``repertory verify``.

An application can check invariants of its own: `verify` calls ``on_command`` with each command (a `Record`) and
``on_step`` with each event (a `Step`), and a `Finding` turns what they find into a `Check`. The log is read through a
`Reader`: ``repertory.connect(url).reader()`` opens one.
"""

from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.verify.findings import Check, Finding, Offender, Place
from repertory.verify.journal import Step
from repertory.verify.records import records_total
from repertory.verify.verification import VerificationReport, verify

__all__ = [
    "Check",
    "Finding",
    "Offender",
    "Place",
    "Reader",
    "Record",
    "Step",
    "VerificationReport",
    "records_total",
    "verify",
]
