"""The tables of the history. Times are text in ISO 8601, UTC, so that both databases sort and give them back alike."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

#: Raised by one with each change that an older llmprov could misread.
VERSION = 1

metadata = MetaData()

meta = Table(
    "llmprov_meta", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False)
)

runs = Table(
    "llmprov_runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("command", String(40), nullable=False),
    Column("started", String(40), nullable=False),
    Column("finished", String(40)),
    Column("outcome", String(20), nullable=False),
    Column("exit_code", Integer, nullable=False),
    # Whether its statuses say how hosts are: a plan or a converge without verify does not.
    Column("verified", Boolean, nullable=False),
    Column("hosts", Integer, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("inventory", JSON, nullable=False),
    Column("versions", JSON, nullable=False),
    Column("content_digest", String(80), nullable=False),
)

hosts = Table(
    "llmprov_hosts",
    metadata,
    Column("run", String(40), ForeignKey("llmprov_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("host", Text, primary_key=True),
    Column("status", String(20), nullable=False),
    Column("summary", Text, nullable=False),
    Column("cause", String(60), nullable=False),
    Column("cohort", String(20), nullable=False),
    # Name -> version of what figures depend on.
    Column("versions", JSON, nullable=False),
    # Id -> status of the checks that did not pass.
    Column("findings", JSON, nullable=False),
    # Key -> device -> value of the figures that are compared.
    Column("figures", JSON, nullable=False),
    Index("llmprov_hosts_by_host", "host", "run"),
)

cohorts = Table(
    "llmprov_cohorts",
    metadata,
    Column("run", String(40), ForeignKey("llmprov_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("cohort", String(20), primary_key=True),
    Column("key", String(120), primary_key=True),
    Column("describes", Text, nullable=False),
    Column("unit", String(40), nullable=False),
    Column("count", Integer, nullable=False),
    Column("median", Float, nullable=False),
    Column("scale", Float, nullable=False),
)
