"""A node process for test_process: ``python some_node.py REPORT_FD JSON``. Says at its end what it has left."""

from __future__ import annotations

import json
import logging
import sys

import psutil

from repertory.supervision import Backoff, Directive, Strategy, restart
from repertory.supervision.process.node import run_node
from repertory.supervision.process.reports import Report, ReportWriter
from repertory.supervision.process.work import WorkSpec


class After(Report, frozen=True, kw_only=True, tag="after"):
    """What the node process has left behind."""

    processes: int
    sockets: int
    threads: int


def main() -> int:
    """Run the node that the arguments describe."""
    reports = ReportWriter(int(sys.argv[1]))
    told = json.loads(sys.argv[2])
    logging.basicConfig(format="log: %(message)s")
    exit_code = run_node(
        [WorkSpec(name, "some_work:Steady", arguments) for name, arguments in told["workers"].items()],
        restart(
            max_restarts=told["max_restarts"],
            backoff=Backoff(first_s=told["backoff_s"], max_s=30.0),
            on={KeyError: Directive.STOP, ConnectionError: Directive.ESCALATE, EOFError: Directive.RESUME},
        ),
        Strategy(told["strategy"]),
        ping_timeout_s=told["ping_timeout_s"],
        stop_timeout_s=told["stop_timeout_s"],
        progress_timeout_s=told["progress_timeout_s"],
        reports=reports,
    )
    own = psutil.Process()
    after = After(
        processes=len(own.children(recursive=True)),
        sockets=len(own.net_connections(kind="inet")),
        threads=own.num_threads(),
    )
    reports.write(after)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
