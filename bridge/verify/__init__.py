"""What a system left in a log, held against what it promises; the command ``understudy verify``."""

from bridge.verify.findings import Check, Offender
from bridge.verify.journal import Step
from bridge.verify.verification import Report, records_total, verify

__all__ = ["Check", "Offender", "Report", "Step", "records_total", "verify"]
