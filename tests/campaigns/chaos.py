"""Chaos: a real Kafka behind a faulty network and real workers under load, with seeded kills, stops and network cuts.

``python -m tests.campaigns.chaos --minutes 10 --seed 1`` (``make chaos MINUTES=10``). Afterwards all faults end, all
commands must be handled in bounded time, `verify` must pass, and each number must have been counted exactly once.
``--bank`` runs the bank of the examples instead, with its audit; ``--shop`` the shop, over HTTP, with its books. Their
projectors are killed like workers, and their tables compared with those of one undisturbed run. The exit code is 1 if a
check fails. A seed repeats the schedule of faults, but not the same run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter as Multiset
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from repertory.bridge.node.handle import NodeHandle
from repertory.supervision.process.reports import WorkerExited
from tests.support.kafka.broker import BROKER_SESSION_S, Broker, _free_ports
from tests.support.kafka.namespace import Namespace, NotPermittedError
from tests.support.kafka.tcp_proxy import RoughProxy
from tests.support.nodes.shop_trial import ShopTrial
from tests.support.nodes.trial import BankTrial, Trial, application
from tests.support.paths import ROOT
from tests.support.processes import send_signal

SESSION_S = 3.0
TRANSACTION_S = 5.0
#: Past the session and the transaction timeout.
LONG_SLEEP_S = SESSION_S + TRANSACTION_S + 1.5
#: After the faults, a command must be handled within each interval of this length, until all are.
STANDSTILL_S = 120.0
BURST = 60
WORKERS = {"one": 2, "two": 1}
GUEST = "guest"
#: A node of one worker in its own network namespace, if namespaces are permitted.
FAR = "far"
LOGS = ROOT / "target" / "chaos"

#: What runs: the application, and its load and checks.
JOBS: dict[str, tuple[str, type[Trial]]] = {
    "counters": ("tests.apps.killed", Trial),
    "bank": ("tests.apps.rough_bank", BankTrial),
    "shop": ("tests.apps.rough_shop", ShopTrial),
}

console = Console(soft_wrap=True)


class Chaos:
    """One run. Its thread injects the faults, collects the reports and sends the load."""

    def __init__(self, seed: int, without: Sequence[str] = (), *, job: str = "counters") -> None:
        self._without = without
        self._random = Random(seed)  # noqa: S311 - a schedule, not a secret
        self._proxy = RoughProxy()
        self._broker = Broker(advertised_port=self._proxy.port, controller_apart=True)
        direct, far = _free_ports(2)
        self._namespace = self._made_namespace()
        outside = self._namespace.outside if self._namespace else "127.0.0.1"
        self._far_url = f"kafka://{outside}:{far}"
        self._broker._overrides = (
            f"listeners=PLAINTEXT://127.0.0.1:{self._broker.port},DIRECT://127.0.0.1:{direct},FAR://{outside}:{far}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self._proxy.port},DIRECT://127.0.0.1:{direct},"
            f"FAR://{outside}:{far}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name=DIRECT",
        )
        self._broker.start()
        self._proxy.forward_to(self._broker.port)
        module, trial = JOBS[job]
        self._folder = TemporaryDirectory(prefix="repertory-chaos-")
        rough = {
            "session_s": SESSION_S, "transaction_s": TRANSACTION_S, "ping_s": 600, "batch": 30,
            "tables": f"sqlite:///{self._folder.name}/tables.db",
        }  # fmt: skip
        app, url = application(f"chaos-{seed}", module, **rough), f"kafka://127.0.0.1:{direct}"
        self.trial = ShopTrial(app, url, host=outside) if trial is ShopTrial else trial(app, url)
        self._url = f"kafka://127.0.0.1:{self._proxy.port}"
        self._nodes: dict[str, NodeHandle] = {}
        self._asleep: set[int] = set()
        self._broker_well = True
        #: The time at which each fault ends, and the function that ends it.
        self._cures: list[tuple[float, Callable[[], None]]] = []
        self.injected: Multiset[str] = Multiset()
        self.gave_up = 0
        self._started_s = time.monotonic()

    def _made_namespace(self) -> Namespace | None:
        if "namespace" in self._without:
            return None
        try:
            return Namespace()
        except NotPermittedError as error:
            console.print(
                f"network namespaces are not permitted here, so their faults are left out: {error}", highlight=False
            )
            return None

    # --- a run ------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> list[str]:
        """Run for some seconds, and return the violations."""
        for name in WORKERS:
            self._start(name)
        if self._namespace:
            self._start(FAR)
        faults = self._schedule()
        due_s, fault = next(faults)
        while (now_s := time.monotonic()) < self._started_s + seconds:
            self._cure(now_s)
            if now_s >= due_s:
                self._inject(fault)
                due_s, fault = next(faults)
            if self._broker_well:
                self.trial.send(BURST)
            self.trial.poll(0.3)
            self._look_after_nodes()
        self._heal()
        if standstill := self._standstill():
            return [standstill]
        codes = self.trial.stop()
        complaints = [f"nodes stopped with {codes}"] if any(codes) else []
        complaints += [f"{self.gave_up} nodes gave up"] if self.gave_up else []
        return complaints + self.trial.complaints()

    def _standstill(self) -> str | None:
        """Wait until all commands are handled; return a description of the first one left if there is no progress."""
        ended_s = moved_s = time.monotonic()
        before = ""
        while (left := self.trial.unhandled()) is not None:
            now_s = time.monotonic()
            if left != before:
                before, moved_s = left, now_s
            if now_s > moved_s + STANDSTILL_S:
                return f"nothing was handled for {STANDSTILL_S:g} s: {left}"
            self.say(f"waiting for {left}")
            for _ in range(60):
                self.trial.poll()
        self.say(f"all commands are handled, {time.monotonic() - ended_s:.1f} s after the last fault ended")
        return None

    def _schedule(self) -> Iterator[tuple[float, str]]:
        """Yield the time and the kind of each fault, drawn from the seed only."""
        names = list(self._kinds())
        left_out = self._without if self._namespace else (*self._without, "namespace")
        weights = [
            0 if any(part in name for part in left_out) else weight for name, (weight, _) in self._kinds().items()
        ]
        due_s = self._started_s + 3.0
        while True:
            yield due_s, self._random.choices(names, weights)[0]
            due_s += self._random.uniform(0.5, 4.0)

    def _kinds(self) -> dict[str, tuple[int, Callable[[float], None]]]:
        trial = self.trial
        own: dict[str, tuple[int, Callable[[float], None]]] = {}
        if isinstance(trial, ShopTrial):
            own["gateway SIGKILL"] = 3, lambda _: trial.kill_gateway()
            own["payment provider SIGKILL"] = 3, lambda _: trial.kill_provider()
        return own | {
            "worker SIGKILL": (6, self._kill_worker),
            "worker SIGSTOP, short": (2, lambda x: self._stop_worker(x * SESSION_S * 0.8)),
            "worker SIGSTOP past session and transaction": (3, lambda x: self._stop_worker(LONG_SLEEP_S + x)),
            "node SIGKILL": (1, self._kill_node),
            "node SIGTERM": (1, self._leave),
            "node joins, node leaves": (3, self._storm),
            "broker SIGKILL": (1, self._kill_broker),
            "broker SIGSTOP": (2, self._stop_broker),
            "network slow": (2, self._slow),
            "network cut": (3, lambda _: self._proxy.cut()),
            "network silent, both ways": (1, lambda x: self._silence(x, "in out")),
            "network silent, to the broker": (1, lambda x: self._silence(x, "in")),
            "network silent, to the clients": (1, lambda x: self._silence(x, "out")),
            "EndTxn late": (3, lambda _: self._proxy.make_late()),
            "namespace cut off, both ways": (1, lambda x: self._cut_off(x, "in out")),
            "namespace cut off, outwards": (1, lambda x: self._cut_off(x, "out")),
            "namespace cut off, inwards": (1, lambda x: self._cut_off(x, "in")),
        }

    def _inject(self, name: str) -> None:
        before = self.injected.total()
        self.injected[name] += 1
        strength = self._random.random()  # drawn even if the fault has no target, so that the schedule stays the same
        self.say(f"fault {before + 1}: {name}")
        self._kinds()[name][1](strength)

    def _cure(self, now_s: float) -> None:
        for cure in [cure for cure in self._cures if cure[0] <= now_s]:
            self._cures.remove(cure)
            cure[1]()

    def _heal(self) -> None:
        self.say("faults end")
        self._cure(float("inf"))
        self._proxy.heal()
        self._look_after_nodes()

    def say(self, what: str) -> None:
        console.print(
            f"{time.monotonic() - self._started_s:7.1f} s  {what}  "
            f"[dim]({self.trial.sent:,} sent, {len(self.trial.reported(WorkerExited))} worker exits)[/dim]",
            highlight=False,
        )

    def close(self) -> None:
        """Stop everything that was started."""
        for pid in self._asleep:
            send_signal(pid, signal.SIGCONT)
        self._proxy.heal()
        self.trial.close()
        self._broker.stop()
        self._proxy.close()
        if self._namespace:
            self._namespace.close()
        self._folder.cleanup()

    # --- nodes ------------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        if name == FAR and self._namespace:
            with self._namespace.entered():
                self._nodes[name] = self.trial.node(name, 1, self._far_url)
        else:
            self._nodes[name] = self.trial.node(name, WORKERS.get(name, 1), self._url)

    def _look_after_nodes(self) -> None:
        """Restart nodes that have ended."""
        for name, node in list(self._nodes.items()):
            if node.exit_code is not None:
                self.gave_up += 1
                self.say(f"node {name} ended with exit code {node.exit_code}; it is started again")
                self._end(name)
                self._start(name)

    def _end(self, name: str) -> None:
        node = self._nodes.pop(name)
        node.stop()
        self.trial.nodes.remove(node)

    def _kill_node(self, strength: float) -> None:
        if (name := self._pick()) is None:
            return
        node = self._nodes[name]
        self._wake_all(node)
        node.signal(signal.SIGKILL)
        self.trial.until(lambda: node._read_fd is None, f"all processes of node {name} are gone")
        self._end(name)
        self._later(strength * 4.0, lambda: self._start(name))

    def _leave(self, strength: float) -> None:
        if (name := self._pick()) is not None and self._broker_well:
            self._end_well(name)
            self._start(name)

    def _storm(self, _: float) -> None:
        if GUEST not in self._nodes:
            self._start(GUEST)
        elif self._broker_well:
            self._end_well(GUEST)

    def _end_well(self, name: str) -> None:
        """Stop a node without active faults: this thread waits for its end, and so ends no fault meanwhile."""
        self._proxy.heal()
        self._wake_all(self._nodes[name])
        self._end(name)

    def _kill_worker(self, _: float) -> None:
        if (pid := self._worker()) is not None:
            send_signal(pid, signal.SIGKILL)
            self._asleep.discard(pid)

    def _stop_worker(self, seconds: float) -> None:
        pid = self._worker()
        if pid is None or pid in self._asleep or not send_signal(pid, signal.SIGSTOP):
            return
        self._asleep.add(pid)
        self._later(seconds, lambda: self._wake(pid))

    def _wake(self, pid: int) -> None:
        if pid in self._asleep:
            self._asleep.discard(pid)
            if pid in self._alive():
                send_signal(pid, signal.SIGCONT)

    def _wake_all(self, node: NodeHandle) -> None:
        for pid in node.workers.values():
            self._wake(pid)

    def _alive(self) -> set[int]:
        """Return the pids of the workers that are not reported as dead."""
        self.trial.poll(0.0)
        return {pid for node in self._nodes.values() for pid in node.workers.values()}

    def _worker(self) -> int | None:
        pids = sorted(self._alive())
        return self._random.choice(pids) if pids else None

    def _pick(self) -> str | None:
        names = [name for name in sorted(WORKERS) if name in self._nodes]
        return self._random.choice(names) if names else None

    # --- the broker and the network ---------------------------------------------------------------------------

    def _kill_broker(self, strength: float) -> None:
        if self._broker_well:
            self._broker_well = False
            self._broker.kill()
            self._later(BROKER_SESSION_S + 0.5 + strength * 3.0, self._restart_broker)

    def _restart_broker(self) -> None:
        self._broker.launch()
        self._broker_well = True

    def _stop_broker(self, strength: float) -> None:
        if self._broker_well:
            self._broker_well = False
            os.kill(self._broker.pid, signal.SIGSTOP)
            self._later(0.5 + strength * 5.0, self._wake_broker)

    def _wake_broker(self) -> None:
        os.kill(self._broker.pid, signal.SIGCONT)
        self._broker_well = True

    def _slow(self, strength: float) -> None:
        self._proxy.delay_s = 0.02 + strength * 0.2
        self._later(3.0, lambda: setattr(self._proxy, "delay_s", 0.0))

    def _silence(self, strength: float, ways: str) -> None:
        for way, gate in (("in", self._proxy.open_in), ("out", self._proxy.open_out)):
            if way in ways:
                gate.clear()
                self._later(0.5 + strength * LONG_SLEEP_S, gate.set)

    def _cut_off(self, strength: float, ways: str) -> None:
        """Cut the traffic of the node in the namespace, in one or both directions; the others are not affected."""
        assert self._namespace is not None
        self._namespace.cut(ways)
        self._later(0.5 + strength * LONG_SLEEP_S, self._namespace.heal)

    def _later(self, delay_s: float, cure: Callable[[], None]) -> None:
        self._cures.append((time.monotonic() + delay_s, cure))


def _stderr_to(path: Path) -> Path:
    """Redirect the stderr of this process and its children to a file, so that the progress stays readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    return path


def _table(chaos: Chaos) -> Table:
    table = Table("what", "times", title="injected faults, and their effects")
    for name, count in sorted(chaos.injected.items()):
        table.add_row(name, str(count))
    table.add_row("EndTxn delivered late", str(chaos._proxy.late_requests))
    counted = Multiset(report.event for report in chaos.trial.reports)
    for event in ("worker-exited", "shard-aborted", "shard-fenced", "shard-lost", "shard-failed", "shard-restored"):
        table.add_row(f"reports: {event}", str(counted[event]))
    exits = [each.worker for each in chaos.trial.reported(WorkerExited)]
    table.add_row("projectors that ended", str(sum(name.startswith("projector-") for name in exits)))
    table.add_row("rows in SQL", f"{chaos.trial.tables.rows:,}")
    if isinstance(chaos.trial, ShopTrial):
        for end, count in sorted(chaos.trial.ends().items()):
            table.add_row(f"orders: {end}", str(count))
    table.add_row("nodes that gave up", str(chaos.gave_up))
    table.add_row("commands sent (outcome unknown)", f"{chaos.trial.sent:,} ({len(chaos.trial.unsure):,})")
    return table


def main() -> int:
    """Run and return the exit code: 0 if all promises held."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    for job in ("bank", "shop"):
        parser.add_argument(
            f"--{job}", dest="job", action="store_const", const=job, default="counters",
            help=f"the {job} of the example instead of counters",
        )  # fmt: skip
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        help="leave out faults that have this in their name, to find the one that matters",
    )
    options = parser.parse_args()
    # An ordinary end, whoever asks for it: nothing may stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    log = _stderr_to(LOGS / f"seed-{options.seed}.log")
    console.print(f"the log of the workers is {log}", highlight=False)
    chaos = Chaos(options.seed, options.without, job=options.job)
    try:
        complaints = chaos.run(options.minutes * 60)
    except AssertionError as never:
        complaints = [str(never)]
    finally:
        chaos.close()
    console.print(_table(chaos))
    for complaint in complaints:
        console.print(f"WRONG: {complaint}", highlight=False, markup=False)
    verdict = f"seed {options.seed}, {options.minutes:g} minutes"
    console.print(f"{verdict}: {'FAILED' if complaints else 'every promise held'}", highlight=False)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
