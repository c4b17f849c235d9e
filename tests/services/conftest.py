"""Real servers and a real browser, from Debian's packages: `tools/packages.sh tests` installs them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of these tests alone, on a socket in a folder of its own: no port is taken."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: Debian's package postgresql has one")
    # The server refuses to run as root, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="llmprov-pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    become = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(folder, user)
    data = folder / "data"

    def control(*argv: str) -> None:
        subprocess.run([*become, *argv], check=True, capture_output=True, cwd=folder)

    try:
        control(
            str(programs / "initdb"), "-D", str(data), "-U", "llmprov", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"
        )
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        control(str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-w", "-l", str(folder / "log"), "start")
        try:
            yield f"postgresql://llmprov@/postgres?host={folder}"
        finally:
            control(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgres"))])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty history, in each of the databases."""
    if request.param == "sqlite":
        yield str(tmp_path / "history.db")
        return
    import psycopg

    url = request.getfixturevalue("postgres")
    name = f"test_{abs(hash(str(tmp_path))):x}"
    with psycopg.connect(url, autocommit=True) as link:
        link.execute(f"CREATE DATABASE {name}")
    yield url.replace("/postgres?", f"/{name}?")
    with psycopg.connect(url, autocommit=True) as link:
        link.execute(f"DROP DATABASE {name} WITH (FORCE)")
