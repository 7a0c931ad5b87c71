"""The embedded log's file: one SQLite connection, its transactions, and its errors in sentences.

Committed records never change, and only superseded ones are deleted (``compaction``), so a read needs no transaction
that outlives a batch.
The ports are in ``log.py`` and ``backend.py``; this is the only module that imports ``sqlite3``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from repertory.actors.headers import Headers
from repertory.bridge.log.clock import Clock
from repertory.bridge.log.embedded import schema
from repertory.bridge.log.errors import (
    LogError,
    LogUnavailable,
    LogUnusable,
    OutcomeUnknown,
    Refused,
    TopicMismatch,
)
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.system.settings import Settings
from repertory.supervision.process.proc import writer_pid

#: Records of one partition in one batch: where throughput levels off (measured).
_BATCH_RECORDS_MAX = 1_000
#: A batch ends after this many bytes too (and the chunk that passed it), so large records do not fill the memory.
_BATCH_BYTES_MAX = 8 << 20
_CHUNK_RECORDS = 64
#: Records of one INSERT; more gains nothing (measured), and each number up to it is a statement to be prepared.
_INSERT_RECORDS = 40
#: Own retry of a busy file. Worst wait 12 ms against 649 ms with SQLite's busy handler (measured, design 8).
_RETRY_MIN_S, _RETRY_MAX_S = 50e-6, 2e-3
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)

_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(Headers).decode

_T = TypeVar("_T")
Connection = sqlite3.Connection
Row = tuple[Any, ...]
#: Encoded outputs by partition: the columns of the first one's row, of the second one's, and so on. Offsets and
#: timestamps, at _OFFSET_AT and _TIMESTAMP_AT of each, are put in when the partition is locked.
Groups = dict[TopicPartition, list[str | int | bytes | None]]
_COLUMNS, _OFFSET_AT, _TIMESTAMP_AT = 7, 2, 6


class Store:
    """One connection, opened at first use, never carried across a fork.

    Several threads may use it, one after the other: the log in memory is one store, which clients in other threads
    share with the worker. A thread that has begun a ``write`` keeps the others out until its end.
    """

    def __init__(self, path: str, settings: Settings, clock: Clock) -> None:
        self.path, self.settings, self.clock = path, settings, clock  # path "" is memory
        self._connection: Connection | None = None
        self._pid = 0
        self._lock = threading.RLock()

    def connection(self) -> Connection:
        """Return the connection, opening it first if need be."""
        if self._connection is None:
            with self._lock:
                if self._connection is None:
                    self._connection, self._pid = _open(self.path), os.getpid()
        assert self._pid == os.getpid(), "an SQLite connection must not be used in a forked process"
        return self._connection

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a read."""
        with self._lock:
            try:  # Nearly always at once: asked several times at each poll.
                return self.connection().execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                if _code(error) not in _BUSY:  # SQLite may have undone the transaction around it: nothing may follow.
                    raise _refusal(error, str(self)) from error
                return self._patiently(lambda: self.connection().execute(sql, parameters).fetchall())

    def version(self) -> tuple[int, int]:
        """Return a value that changes with every commit: of others the first part, of ourselves the second."""
        if not self.path:  # No other process has this memory; asked at every poll.
            return 0, self.connection().total_changes
        return self.rows("PRAGMA data_version")[0][0], self.connection().total_changes

    def records(self, topic: str, partition: int, from_offset: int, to_offset: int) -> list[Record]:
        """Return the next committed records in a bounded batch: empty only if there are none."""

        def read() -> list[Row]:
            bounds = (topic, partition, from_offset, to_offset, _BATCH_RECORDS_MAX)
            rows: list[Row] = []
            size_bytes = 0
            with contextlib.closing(self.connection().execute(schema.READ, bounds)) as cursor:
                while size_bytes < _BATCH_BYTES_MAX:
                    chunk = cursor.fetchmany(_CHUNK_RECORDS)
                    rows += chunk
                    if len(chunk) < _CHUNK_RECORDS:
                        break
                    size_bytes += sum([len(value) for _, _, value, _, _ in chunk if value])
            return rows

        with self._lock:
            found = self._patiently(read)
        return [
            Record(topic, partition, offset, key, value, _decode_headers(headers) if headers else (), timestamp_ms)
            for offset, key, value, headers, timestamp_ms in found
        ]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset that a partition holds and its end; TopicMismatch if there is none such."""
        for low, high in self.rows(schema.BOUNDS, (topic, partition)):
            return low, high
        raise self.unknown(topic, partition)

    def partition_count(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if there is no such topic."""
        count: int = self.rows("SELECT count(*) FROM partition WHERE topic = ?", (topic,))[0][0]
        return count or None

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the ids of those of the topics that exist."""
        found: dict[str, str] = dict(self.rows("SELECT topic, id FROM topic"))
        return {topic: found[topic] for topic in topics if topic in found}

    def unknown(self, topic: str, partition: int) -> TopicMismatch:
        """Return the refusal of a partition that does not exist."""
        count = self.partition_count(topic)
        what = f"it has {count} partitions" if count else "there is no such topic"
        return TopicMismatch(f"{self} has no partition {topic}/{partition} ({what}): nothing was read or written")

    @contextlib.contextmanager
    def write(self, *, appends: bool = False) -> Iterator[Connection]:
        """Run one write transaction: all that is executed within happens, or none of it.

        ``appends``: it appends records, and must not be repeated if it may have happened.

        Raises:
            LogUnavailable: the file could not be written, or another process kept it locked.
            LogUnusable, Refused: nothing happened, and nothing will.
            OutcomeUnknown: the very commit failed of a transaction that appends records.
        """
        with self._lock:
            connection = self._patiently(self._begin)
            committing = False
            try:
                yield connection
                committing = True
                self._commit(connection)
            except sqlite3.Error as error:
                # SQLite ends by itself a transaction whose COMMIT fails; one that it leaves open is undone by us.
                was_open = connection.in_transaction
                self._roll_back(connection)
                refusal, is_decided = _refusal(error, str(self)), was_open or _code(error) == sqlite3.SQLITE_FULL
                if appends and committing and not is_decided:
                    raise OutcomeUnknown(
                        f"{refusal}; whether the transaction happened shows when it is read"
                    ) from error
                raise refusal from error
            except BaseException:
                self._roll_back(connection)
                raise

    def append(self, connection: Connection, groups: Groups) -> dict[TopicPartition, int]:
        """Append within a transaction, and return each partition's first offset; TopicMismatch if there is no such."""
        timestamp_ms = self.clock.epoch_ms()
        first_offsets: dict[TopicPartition, int] = {}
        for shard, columns in groups.items():
            count = len(columns) // _COLUMNS
            reserved = connection.execute(schema.RESERVE, (count, *shard)).fetchall()
            if not reserved:
                raise self.unknown(*shard)
            offset = first_offsets[shard] = reserved[0][0] - count
            columns[_OFFSET_AT::_COLUMNS] = range(offset, offset + count)
            columns[_TIMESTAMP_AT::_COLUMNS] = [timestamp_ms] * count
            for start in range(0, len(columns), _COLUMNS * _INSERT_RECORDS):
                rows = columns[start : start + _COLUMNS * _INSERT_RECORDS]
                connection.execute(schema.insert(len(rows) // _COLUMNS), rows)
        return first_offsets

    def _begin(self) -> Connection:
        connection = self.connection()
        self._roll_back(connection)  # One that was left open by an exception just before its `write` could see it.
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def _commit(self, connection: Connection) -> None:
        connection.execute("COMMIT")

    def _roll_back(self, connection: Connection) -> None:
        """Undo the open transaction, if SQLite has not done so itself."""
        with contextlib.suppress(sqlite3.Error):  # The first error is the one that tells.
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """Run an action; while others keep the file busy, again, for ``lock_timeout_s`` at most."""
        deadline_s, pause_s = None, _RETRY_MIN_S
        while True:
            try:
                return action()
            except sqlite3.Error as error:
                if _code(error) not in _BUSY:
                    raise _refusal(error, str(self)) from error
                now_s = time.monotonic()
                deadline_s = deadline_s or now_s + self.settings.lock_timeout_s
                if now_s >= deadline_s:
                    raise LogUnavailable(self._locked()) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    def _locked(self) -> str:
        """Say who has kept everyone from writing."""
        pid = writer_pid(self.path)
        holder = f"process {pid}" if pid else "a process that cannot be told"
        return (
            f"{self} has been locked by {holder} for {self.settings.lock_timeout_s:g} s and nothing was written: "
            "if that process is stopped or hangs, kill it, and the log goes on from its last commit"
        )

    def release(self) -> None:
        """Close what one port used alone: a file's connection, while the one in memory belongs to the backend."""
        if self.path:
            self.close()

    def close(self) -> None:
        """Close the connection. A forked copy is left alone: closing it would disturb the parent's."""
        if self._connection is not None and self._pid == os.getpid():
            with self._lock:
                self._connection.close()
        self._connection = None

    def __str__(self) -> str:
        return f"the log {self.path}" if self.path else "the log in memory"


def grouped(outputs: Iterable[Output]) -> Groups:
    """Encode outputs, before any lock is taken, and put those of one partition together in their order."""
    groups: Groups = {}
    for output in outputs:
        headers = _encode_headers(output.headers) if output.headers else None
        columns = groups.setdefault(TopicPartition(output.topic, output.partition), [])
        columns += (output.topic, output.partition, None, output.key, output.value, headers, None)
    return groups


def _open(path: str) -> sqlite3.Connection:
    """Open a log file, making it first where there is none."""
    if not path:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _build(connection)
        return connection
    if not exists(path):
        _create(Path(path))
    _inspect(path)
    connection = _connect(f"{_uri(path)}?mode=rw")
    try:
        connection.execute("PRAGMA synchronous = FULL")
        _check_application(connection, path)
        _check_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def exists(path: str) -> bool:
    """Tell whether a log file is there; LogUnavailable if that cannot be told."""
    try:
        return Path(path).exists()
    except (OSError, ValueError) as error:
        raise LogUnavailable(f"the log {path!r} cannot be opened: {error}; choose another path") from error


def _uri(path: str) -> str:
    return f"file:{quote(os.fsencode(path))}"


def _connect(uri: str) -> Connection:
    """Open a file. Threads take turns (``Store``), and ``Store`` waits for other processes itself."""
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0, check_same_thread=False)


def _check_schema(connection: Connection, path: str) -> None:
    """Refuse a log that another version of repertory made."""
    (version,) = connection.execute("SELECT schema_version FROM meta").fetchone()
    if version != schema.SCHEMA_VERSION:
        raise LogUnusable(
            f"the log {path} has schema {version}, this repertory knows {schema.SCHEMA_VERSION}: "
            "nothing in it was changed; use the repertory that made it"
        )


def _build(connection: Connection) -> None:
    """Make the tables of an empty log."""
    connection.executescript(schema.SCHEMA)
    connection.execute("INSERT INTO meta VALUES (?, ?, 0)", (schema.APPLICATION_ID, schema.SCHEMA_VERSION))


def _create(path: Path) -> None:
    """Make an empty log under another name and link it to its own: whoever finds the file finds it whole."""
    if not path.parent.is_dir():
        raise LogUnavailable(f"the log {path} cannot be made: there is no directory {path.parent}; make it first")
    new = path.with_name(f"{path.name}.new-{uuid.uuid4().hex}")
    try:
        # For its owner alone, whatever the umask: it holds the application's data. SQLite's other files follow it.
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
            _build(connection)
            connection.execute("PRAGMA journal_mode = WAL")
        os.link(new, path)
    except FileExistsError:
        return  # Another worker was faster, and its log is as good.
    except sqlite3.Error as error:
        raise _refusal(error, f"the log {path}") from error
    except OSError as error:
        raise LogUnavailable(f"the log {path} cannot be made: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)


def _inspect(path: str) -> None:
    """Refuse what is not a log, changing nothing: ``immutable`` neither locks nor recovers.

    Through SQLite and not by reading the header with ``open``: closing a second descriptor of the file would
    release the locks that this process holds on it (https://sqlite.org/howtocorrupt.html, 2.2).

    A look that no lock protects may fall into another worker's checkpoint, and the file then seems damaged. It is
    looked at again under locks.
    """
    with contextlib.closing(_connect(f"{_uri(path)}?mode=ro&immutable=1")) as connection:
        try:
            _check_application(connection, path)
        except sqlite3.DatabaseError as error:
            if _code(error) != sqlite3.SQLITE_CORRUPT:
                raise


def _check_application(connection: Connection, path: str) -> None:
    """Refuse the database of another application."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != schema.APPLICATION_ID:
        raise LogUnusable(
            f"{path} is an SQLite file but no repertory log (application id {application_id}): "
            "nothing in it was changed; choose another path"
        )


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; an error of the ``sqlite3`` module itself is our bug and goes on."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        raise error
    return code & 0xFF


def _refusal(error: sqlite3.Error, what: str) -> LogError:
    """Put SQLite's error into a sentence with the file and the mend."""
    match _code(error):
        case sqlite3.SQLITE_NOTADB:
            return LogUnusable(f"{what} is not an SQLite file: nothing in it was changed; choose another path")
        case sqlite3.SQLITE_CORRUPT:
            return LogUnusable(
                f"{what} is damaged ({error}): restore a copy, or move it and its -wal and -shm files away together"
            )
        case sqlite3.SQLITE_TOOBIG:
            return Refused(f"{what} takes no record of that size (SQLite's limit is 1 GB): nothing was written")
        case sqlite3.SQLITE_FULL:
            return LogUnavailable(f"{what} cannot grow, its disk is full: nothing was written; make room")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH | sqlite3.SQLITE_READONLY:
            return LogUnavailable(
                f"{what} cannot be opened for writing ({error}): let this user write the file and its directory"
            )
    return LogUnavailable(f"{what} cannot be used ({error}, {error.sqlite_errorname}): nothing was written")
