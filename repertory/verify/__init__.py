"""What a system left in a log, held against what it promises; the command ``repertory verify``.

An application has promises of its own: `verify` tells its ``on_command`` and ``on_step`` of each command and event, and
a `Finding` makes a `Check` of what they find.
"""

from repertory.verify.findings import Check, Finding, Offender, Place
from repertory.verify.journal import Step
from repertory.verify.verification import VerificationReport, records_total, verify

__all__ = ["Check", "Finding", "Offender", "Place", "Step", "VerificationReport", "records_total", "verify"]
