"""A real PostgreSQL, for the tests that have MLflow keep its store there.

SQLite takes what it is given; PostgreSQL enforces the widths of MLflow's columns, refuses NUL in
texts, and is a process of its own that can die while MLflow lives. The server listens on a free port
of 127.0.0.1, lets everybody in, and leaves nothing behind but its log.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from tests.server import HOST, POLL_SECONDS, free_port


if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "mlflow"  # of the database and of the role
NEEDED = ("initdb", "postgres")
DEBIAN = Path("/usr/lib/postgresql")  # its packages put only clients on PATH
START_SECONDS = 30.0
STOP_SECONDS = 10.0

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a path below a test's directory is soon too long for a socket
    # What a commit wrote is with the kernel before the client hears of it, and outlives the process,
    # killed or not: fsync guards against the loss of power, which no test can cause. Turning
    # synchronous_commit off would hide a loss: then the last commits are in the process's memory only.
    "fsync": "off",
    "synchronous_commit": "on",
}


class NoPostgres(Exception):
    """There is no server to start; the message says what to install."""

    def __init__(self) -> None:
        super().__init__(
            f"no PostgreSQL server: {' and '.join(NEEDED)} are neither on PATH nor in {DEBIAN}/*/bin;"
            " install one (on Debian, the package postgresql)"
        )


def find_binaries() -> Path | None:
    """Return the directory of the server's programs: the one on PATH, else the newest that Debian has."""
    found = shutil.which(NEEDED[0])
    # Through links: a server looks for its libraries beside itself.
    on_path = [Path(found).resolve().parent] if found else []
    packaged = sorted(DEBIAN.glob("*/bin"), key=_version, reverse=True)
    return next((place for place in (*on_path, *packaged) if _is_complete(place)), None)


def _version(binaries: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in binaries.parent.name.split(".") if part.isdigit())


def _is_complete(binaries: Path) -> bool:
    return all(os.access(binaries / name, os.X_OK) for name in NEEDED)


class PostgresServer:
    """Run one PostgreSQL with the database ``mlflow``; *directory* holds ``postgres.log``.

    The port is chosen once, so ``uri`` stays the same over ``restart``, and so does what is stored. As
    a context manager it starts on entry; on exit it stops and its data are removed. Raises `NoPostgres`
    where there is no server to start.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise NoPostgres
        self._binaries = binaries
        self.log = Path(directory).resolve() / "postgres.log"
        self.port = free_port()
        self.uri = f"postgresql://{NAME}@{HOST}:{self.port}/{NAME}"
        self._maintenance = self.uri.removesuffix(NAME) + "postgres"  # the database that is always there
        self._user = _unprivileged()
        self._home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._held = -1

    def __enter__(self) -> Self:
        # Not in *directory*: pytest's are for their owner only, and that may not be who runs the server.
        self._home = Path(tempfile.mkdtemp(prefix="postgres-"))
        try:
            if self._user is not None:
                os.chown(self._home, self._user.pw_uid, self._user.pw_gid)
            self._initialise()
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *failure: object) -> None:
        self.stop()
        if self._home is not None:
            shutil.rmtree(self._home)

    # The process.

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster; None when not running."""
        return None if self._process is None else self._process.pid

    def start(self) -> Self:
        """Start the server and return once it lets a client in, recovered from whatever ended it before.

        Raises RuntimeError with the end of the log when that does not happen within 30 seconds; nothing
        is left running then.
        """
        assert self._process is None, f"PostgreSQL is already running, pid {self.pid}"
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        self._held, held = os.pipe()
        try:
            self._process = self._spawn("postgres", "-p", str(self.port), *options, pass_fds=[held])
        finally:
            os.close(held)
        try:
            self._await_client()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End the server as an administrator would, cutting its clients off; kill it when that takes too long."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server with SIGKILL, as the system does that has no memory left."""
        self._end(signal.SIGKILL)

    def crash(self) -> None:
        """End one process of the server, so that it throws all clients out and recovers by itself."""
        with contextlib.closing(psycopg.connect(self.uri)) as connection:
            with contextlib.closing(psycopg.connect(self.uri)) as victim:
                os.kill(victim.info.backend_pid, signal.SIGKILL)
            if not select.select([connection], [], [], STOP_SECONDS)[0]:
                raise RuntimeError(self._failure("did not mind the death of a process"))
        self._await_client()

    def read_only(self, refuse: bool) -> None:
        """Have the database refuse every change from now on, or no longer; its clients are thrown out."""
        with psycopg.connect(self._maintenance, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {NAME} SET default_transaction_read_only = {refuse}")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [NAME]
            )

    def restart(self) -> Self:
        """Start again on the same port and data, stopping first when running."""
        self.stop()
        return self.start()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what *query* selects, read with nothing but SQL."""
        with psycopg.connect(self.uri) as connection:
            return connection.execute(query, values).fetchall()

    def _initialise(self) -> None:
        initdb = self._spawn(
            "initdb", f"--username={NAME}", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"
        )
        if initdb.wait() != 0:
            raise RuntimeError(self._failure("could not be initialised"))

    def _spawn(
        self, program: str, *arguments: str, pass_fds: list[int] | None = None
    ) -> subprocess.Popen[bytes]:
        assert self._home is not None
        user = self._user
        identity: dict[str, Any] = (
            {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        )
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self._binaries / program, "-D", self._home / "data", *arguments],
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds or (),
                start_new_session=True,  # a Ctrl-C for the tests is not one for the server
                **identity,
            )

    def _await_client(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._lets_in():
            assert self._process is not None
            if (code := self._process.poll()) is not None:
                raise RuntimeError(self._failure(f"ended with {code}"))
            if time.monotonic() > deadline:
                raise RuntimeError(self._failure(f"let nobody in within {START_SECONDS:g} s"))
            time.sleep(POLL_SECONDS)

    def _lets_in(self) -> bool:
        """Connect, and make the database where this is the first time."""
        try:
            with psycopg.connect(self._maintenance, autocommit=True, connect_timeout=2) as connection:
                if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [NAME]).fetchall():
                    connection.execute(f"CREATE DATABASE {NAME}")
        except psycopg.OperationalError:
            return False
        return True

    def _failure(self, what: str) -> str:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        return f"PostgreSQL at port {self.port} {what}; its log ends:\n{tail}"

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._await_last()

    def _await_last(self) -> None:
        """Return once every process of the server is gone: until then no other can use its data.

        Each has the pipe's end from the first and none writes to it. Those that serve a client leave
        by themselves when they notice that the first is dead.
        """
        held, self._held = self._held, -1
        try:
            if not select.select([held], [], [], STOP_SECONDS)[0]:
                raise RuntimeError(self._failure("left processes behind"))
        finally:
            os.close(held)


def _unprivileged() -> pwd.struct_passwd | None:
    """Return whom the server runs as instead of root, for whom it refuses to; None for anybody else."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
