# SPDX-License-Identifier: MIT
"""sqlite inside a mount: two writing processes and a reading one, then every row is there."""

from __future__ import annotations

import pytest

from real.conftest import Place
from real.support import need, python_script, run, run_together

ROWS = 300

WRITER = """
import sqlite3, sys
path, me, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect(path, timeout=120, isolation_level=None)
db.execute("PRAGMA synchronous=NORMAL")
db.execute("PRAGMA mmap_size=1048576")
for row in range(rows):
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO t VALUES (?, ?, randomblob(400))", (me, row))
    db.execute("UPDATE total SET n = n + 1")
    db.execute("COMMIT")
db.close()
"""

READER = """
import sqlite3, sys
path, writers, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect(path, timeout=120, isolation_level=None)
seen = 0
while seen < writers * rows:
    db.execute("BEGIN")
    [seen] = db.execute("SELECT n FROM total").fetchone()
    [count] = db.execute("SELECT count(*) FROM t").fetchone()
    db.execute("COMMIT")
    assert seen == count, (seen, count)
"""


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate"])
def test_two_writers_and_a_reader_agree(place: Place, journal: str) -> None:
    need("sqlite3")
    path = place.mnt / "db"
    rows = ROWS if journal == "wal" else ROWS // 5
    made = run(
        *("sqlite3", path),
        input=f"PRAGMA journal_mode={journal}; CREATE TABLE t (who, row, data, PRIMARY KEY (who, row));"
        "CREATE TABLE total (n); INSERT INTO total VALUES (0);".encode(),
    )
    assert made.out.split() == [journal.encode()]
    writers = [[*python_script(WRITER), path, str(me), str(rows)] for me in range(2)]
    run_together([*writers, [*python_script(READER), path, "2", str(rows)]])
    assert run("sqlite3", path, "PRAGMA integrity_check").out == b"ok\n"
    count = "SELECT count(*), count(DISTINCT who), max(row) FROM t"
    assert run("sqlite3", path, count).out == f"{2 * rows}|2|{rows - 1}\n".encode()
    assert run("sqlite3", place.source / "db", count).out == f"{2 * rows}|2|{rows - 1}\n".encode()


def test_a_killed_writer_loses_no_committed_row(place: Place) -> None:
    """The log that it leaves behind is replayed by the next one to open the database."""
    need("sqlite3")
    path = place.mnt / "db"
    run("sqlite3", path, "PRAGMA journal_mode=wal; CREATE TABLE t (n);")
    script = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for n in range(100):
    db.execute("INSERT INTO t VALUES (?)", (n,))
db.execute("BEGIN")
db.execute("INSERT INTO t VALUES (1000)")
os.kill(os.getpid(), signal.SIGKILL)
"""
    run(*python_script(script), path, status=(-9,))
    assert (place.mnt / "db-wal").stat().st_size > 0
    assert run("sqlite3", path, "SELECT count(*), max(n) FROM t").out == b"100|99\n"
    assert run("sqlite3", path, "PRAGMA integrity_check").out == b"ok\n"
