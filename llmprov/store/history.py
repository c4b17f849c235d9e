"""The history of runs: recorded in one transaction each, read back as plain records, the same from either database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from llmprov.errors import LlmprovError, UsageError
from llmprov.knowledge import FIGURES
from llmprov.model import CheckStatus, FleetReport, HostReport, Status
from llmprov.store import schema
from llmprov.store.address import is_path
from llmprov.text import plain

#: What a run's id looks like; names of directories from elsewhere are not taken at their word.
RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")

#: Rows sent to the database at once.
BATCH = 1000

#: Seconds that one writer waits for another.
PATIENCE_S = 30

#: Statuses that say nothing of how a host is.
SILENT = (Status.NOT_SELECTED.value,)


class History:
    """An open history. Use as a context manager.

    Raises:
        UsageError: the address makes no sense, or a driver is missing.
        LlmprovError: the database cannot be opened, or was written by a newer llmprov.
    """

    def __init__(self, address: str) -> None:
        url = _url(address)
        self.name = url.difference_update_query(["password"]).render_as_string(hide_password=True)
        try:
            self._engine = sa.create_engine(url)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{self.name} needs the Python package {error.name}: pip install 'llmprov[postgresql]'"
            ) from None
        except (ArgumentError, NoSuchModuleError) as error:
            raise UsageError(f"{self.name} is no database that a history can be in: {error}") from None
        if url.get_backend_name() == "sqlite":
            sa.event.listen(self._engine, "connect", _careful)
        try:
            self._prepare()
        except LlmprovError:
            self._engine.dispose()
            raise

    def __enter__(self) -> History:
        return self

    def __exit__(self, *exception: object) -> None:
        self._engine.dispose()

    def _prepare(self) -> None:
        version = self._version()
        if version is None:
            try:
                with self._engine.begin() as link:
                    schema.metadata.create_all(link)
                    link.execute(schema.meta.insert().values(name="version", value=str(schema.VERSION)))
            except SQLAlchemyError as error:
                # Somebody else may have made the tables in this very moment.
                version = self._version()
                if version is None:
                    raise LlmprovError(f"the history {self.name} cannot be opened: {_reason(error)}") from None
        if version and int(version) > schema.VERSION:
            raise LlmprovError(f"{self.name} was written by a newer llmprov: update this one")

    def _version(self) -> str | None:
        """The version of the tables; None where there are none."""
        try:
            with self._engine.connect() as link:
                if not sa.inspect(link).has_table(schema.meta.name):
                    return None
                return link.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.name == "version"))
        except SQLAlchemyError as error:
            raise LlmprovError(f"the history {self.name} cannot be opened: {_reason(error)}") from None

    @contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        """One transaction: all of it is kept, or nothing."""
        try:
            with self._engine.begin() as link:
                yield link
        except SQLAlchemyError as error:
            raise LlmprovError(f"the history {self.name} cannot be written: {_reason(error)}") from None

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as link:
                yield link
        except SQLAlchemyError as error:
            raise LlmprovError(f"the history {self.name} cannot be read: {_reason(error)}") from None

    # -- writing -------------------------------------------------------------------------------------------------

    def record(self, fleet: FleetReport) -> bool:
        """Write a run down, whole or not at all; False where it was there already.

        Raises:
            LlmprovError: the database refused.
            UsageError: the run's id is none.
        """
        if not RUN_ID.fullmatch(fleet.run.id):
            raise UsageError(f"{plain(fleet.run.id, 80)!r} is no run's id")
        if self.has(fleet.run.id):
            return False
        try:
            with self._engine.begin() as link:
                link.execute(schema.runs.insert().values(**_run_row(fleet)))
                _insert(link, schema.hosts, (_host_row(fleet.run.id, row) for row in fleet.hosts))
                _insert(link, schema.cohorts, _cohort_rows(fleet))
        except IntegrityError:
            # Another controller wrote the same run meanwhile.
            if self.has(fleet.run.id):
                return False
            raise
        except SQLAlchemyError as error:
            raise LlmprovError(f"the history {self.name} cannot be written: {_reason(error)}") from None
        return True

    def prune(self, keep_days: float, now: datetime | None = None) -> int:
        """Forget runs older than so many days; they are not taken up again from their directories.

        Returns:
            How many were forgotten.
        """
        border = _time((now or datetime.now(UTC)) - timedelta(days=keep_days))
        with self._changing() as link:
            old = sa.select(schema.runs.c.id).where(schema.runs.c.started < border)
            for table in (schema.hosts, schema.cohorts):
                link.execute(sa.delete(table).where(table.c.run.in_(old)))
            gone = link.execute(sa.delete(schema.runs).where(schema.runs.c.started < border)).rowcount
            link.execute(sa.delete(schema.meta).where(schema.meta.c.name == "pruned_before"))
            link.execute(schema.meta.insert().values(name="pruned_before", value=border))
        return int(gone)

    # -- reading -------------------------------------------------------------------------------------------------

    def has(self, run: str) -> bool:
        """Whether a run is recorded, or was and has been forgotten since."""
        with self._reading() as link:
            if link.scalar(sa.select(schema.runs.c.id).where(schema.runs.c.id == run)) is not None:
                return True
            border = link.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.name == "pruned_before"))
        return border is not None and started_of(run) < border

    def runs(self, last: int | None = None, verified: bool = False) -> list[dict[str, Any]]:
        """Runs, the newest first."""
        query = sa.select(schema.runs).order_by(schema.runs.c.id.desc())
        if verified:
            query = query.where(schema.runs.c.verified)
        with self._reading() as link:
            return [dict(row) for row in link.execute(query.limit(last) if last else query).mappings()]

    def find(self, name: str) -> str:
        """The id of the run that a user means: the beginning of one, `latest`, or `latest~2` for the third newest.

        Raises:
            UsageError: there is none, or there are several.
        """
        steps = re.fullmatch(r"latest(?:~(\d{1,6}))?", name)
        query = sa.select(schema.runs.c.id).order_by(schema.runs.c.id.desc())
        if steps:
            query = query.where(schema.runs.c.verified).offset(int(steps.group(1) or 0)).limit(1)
        else:
            query = query.where(schema.runs.c.id.startswith(name, autoescape=True)).limit(2)
        with self._reading() as link:
            found = list(link.scalars(query))
        if len(found) != 1:
            what = "several runs" if found else "no run"
            raise UsageError(f"{what} in {self.name} named {plain(name, 80)!r}: `llmprov history` lists them")
        return str(found[0])

    def hosts(self, run: str) -> dict[str, dict[str, Any]]:
        """Host -> its record, of one run, in the order of the names."""
        query = sa.select(schema.hosts).where(schema.hosts.c.run == run)
        with self._reading() as link:
            rows = [dict(row) for row in link.execute(query).mappings()]
        # Databases sort text each in their own way.
        return {row["host"]: row for row in sorted(rows, key=lambda row: row["host"])}

    def of_host(self, host: str, last: int) -> list[dict[str, Any]]:
        """The records of one host, the newest first, each with when its run started."""
        query = (
            sa.select(schema.hosts, schema.runs.c.started, schema.runs.c.verified)
            .join(schema.runs)
            .where(schema.hosts.c.host == host, schema.runs.c.verified)
            .order_by(schema.hosts.c.run.desc())
            .limit(last)
        )
        with self._reading() as link:
            return [dict(row) for row in link.execute(query).mappings()]

    def cohorts(self, run: str | None = None, cohort: str = "", last: int = 50) -> list[dict[str, Any]]:
        """Figures of cohorts: all of one run, or one cohort's over the last runs, the newest first."""
        table = schema.cohorts
        query = sa.select(table).order_by(table.c.run.desc(), table.c.cohort, table.c.key)
        if run is not None:
            query = query.where(table.c.run == run)
        if cohort:
            recent = sa.select(table.c.run).where(table.c.cohort == cohort).distinct()
            query = query.where(
                table.c.cohort == cohort, table.c.run.in_(recent.order_by(table.c.run.desc()).limit(last))
            )
        with self._reading() as link:
            return [dict(row) for row in link.execute(query).mappings()]

    def statuses(self, last: int, before: str | None = None) -> list[tuple[str, dict[str, str]]]:
        """The last verified runs, the newest first: id, and host -> status."""
        query = sa.select(schema.runs.c.id).where(schema.runs.c.verified).order_by(schema.runs.c.id.desc()).limit(last)
        if before:
            query = query.where(schema.runs.c.id < before)
        with self._reading() as link:
            found = []
            for run in list(link.scalars(query)):
                rows = link.execute(
                    sa.select(schema.hosts.c.host, schema.hosts.c.status).where(schema.hosts.c.run == run)
                )
                found.append((str(run), {row.host: row.status for row in rows}))
            return found

    def since(self) -> dict[str, datetime]:
        """Host -> the start of the first run since which it has not passed; passing hosts are left out."""
        table = schema.hosts
        told = sa.select(table.c.host, table.c.run, table.c.status).join(schema.runs).where(schema.runs.c.verified)
        told = told.where(table.c.status.not_in(SILENT))
        every = told.subquery()
        passed = (
            sa.select(every.c.host, sa.func.max(every.c.run).label("run"))
            .where(every.c.status == Status.PASS.value)
            .group_by(every.c.host)
            .subquery()
        )
        query = (
            sa.select(every.c.host, sa.func.min(every.c.run))
            .outerjoin(passed, passed.c.host == every.c.host)
            .where(every.c.status != Status.PASS.value, sa.or_(passed.c.run.is_(None), every.c.run > passed.c.run))
            .group_by(every.c.host)
        )
        with self._reading() as link:
            return {host: datetime.fromisoformat(started_of(run)) for host, run in link.execute(query)}


# -- records -----------------------------------------------------------------------------------------------------


def _run_row(fleet: FleetReport) -> dict[str, Any]:
    run = fleet.run
    return {
        "id": run.id,
        "command": plain(run.command, 40),
        "started": _time(run.started),
        "finished": _time(run.finished) if run.finished else None,
        "outcome": run.outcome,
        "exit_code": fleet.exit_code,
        "verified": not run.check_mode and any(row.checks for row in fleet.hosts),
        "hosts": len(fleet.hosts),
        "counts": {status.value: count for status, count in fleet.counts.items()},
        "inventory": [plain(name, 500) for name in run.inventory],
        "versions": {plain(name, 60): plain(version, 100) for name, version in run.versions.items()},
        "content_digest": plain(run.content_digest, 80),
    }


def _host_row(run: str, row: HostReport) -> dict[str, Any]:
    seen = row.observation
    versions = {"torch": row.torch, "python": row.python, "level": row.level}
    if seen:
        versions |= {"kernel": seen.os.kernel, "driver": seen.driver.module_version}
    figures: dict[str, dict[str, float]] = {}
    for m in row.measurements:
        if m.key in FIGURES:
            figures.setdefault(m.key, {})[m.device] = float(f"{m.value:.6g}")
    return {
        "run": run,
        "host": plain(row.host),
        "status": row.status.value,
        "summary": plain(row.summary, 500),
        "cause": row.cause.id if row.cause else "",
        "cohort": row.cohort or "",
        "versions": {name: plain(version, 100) for name, version in versions.items() if version},
        "findings": {check.id: check.status.value for check in row.checks if check.status is not CheckStatus.PASS},
        "figures": figures,
    }


def _cohort_rows(fleet: FleetReport) -> Iterator[dict[str, Any]]:
    for cohort in fleet.cohorts:
        for figure in cohort.figures:
            values = figure.model_dump(include={"key", "unit", "count", "median", "scale"})
            yield {"run": fleet.run.id, "cohort": cohort.id, "describes": plain(cohort.describes, 1000), **values}


def _insert(link: sa.Connection, table: sa.Table, rows: Iterable[dict[str, Any]]) -> None:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            link.execute(table.insert(), batch)
            batch = []
    if batch:
        link.execute(table.insert(), batch)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def started_of(run: str) -> str:
    """When a run started, from its id, in the form that the tables have."""
    return _time(datetime.strptime(run[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC))


# -- databases ---------------------------------------------------------------------------------------------------


def _url(address: str) -> URL:
    """A file's path or a database's URL."""
    if is_path(address):
        path = Path(address).expanduser().absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        except OSError as error:
            raise LlmprovError(
                f"the history {path} cannot be written ({error.strerror}): name another with --history"
            ) from None
        return URL.create("sqlite", database=str(path))
    try:
        url = make_url(address)
    except ArgumentError:
        raise UsageError("the address of the history is no URL: postgresql://USER@HOST/DATABASE, or a path") from None
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def _careful(connection: Any, _record: object) -> None:
    """SQLite that survives its writer: a write-ahead log, synced at each commit; writers wait for each other."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={PATIENCE_S * 1000}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _reason(error: SQLAlchemyError) -> str:
    told = str(getattr(error, "orig", None) or error).strip()
    return plain(told.splitlines()[0] if told else type(error).__name__, 300)
