"""pip's configuration in uv's words."""

from __future__ import annotations

import tomllib

from llmprov.depot.pip_config import PipConfig

LISTING = """\
:env:.find-links='/srv/wheels'
:env:.default-timeout='180'
global.extra-index-url='file:///srv/one/simple https://user:secret@mirror.example/simple'
global.find-links='/elsewhere'
global.index-url='https://mirror.example/simple'
install.no-index='false'
freeze.timeout='10'
"""


def test_files_and_environment_are_read_and_the_environment_wins():
    found = PipConfig.parse(LISTING)
    assert found == PipConfig(
        index_url="https://mirror.example/simple",
        extra_index_urls=("file:///srv/one/simple", "https://user:secret@mirror.example/simple"),
        find_links=("/srv/wheels",),
    )


def test_the_order_of_lines_does_not_matter():
    assert PipConfig.parse("\n".join(reversed(LISTING.splitlines()))) == PipConfig.parse(LISTING)


def test_both_ways_of_saying_it_to_uv_agree():
    found = PipConfig.parse(LISTING)
    environment, toml = found.as_uv_environment(), tomllib.loads(found.as_uv_toml())
    assert environment["UV_DEFAULT_INDEX"] == toml["index-url"]
    assert environment["UV_INDEX"].split() == toml["extra-index-url"]
    assert environment["UV_FIND_LINKS"].split(",") == toml["find-links"]
    assert environment["UV_INDEX_STRATEGY"] == toml["index-strategy"] == "unsafe-best-match"


def test_a_pip_that_was_never_configured_says_nothing():
    assert not PipConfig.parse("").has_settings
    assert PipConfig.parse("").as_uv_environment() == {}
    assert PipConfig.parse("").as_uv_toml() == ""


def test_an_isolated_machine_stays_isolated():
    assert PipConfig.parse("global.no-index='true'").as_uv_environment() == {"UV_NO_INDEX": "1"}


def test_local_directories_are_those_that_exist(tmp_path):
    simple = tmp_path / "index" / "simple"
    simple.mkdir(parents=True)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    found = PipConfig(extra_index_urls=(f"file://{simple}", "https://x.example"), find_links=(str(wheels), "/nope"))
    assert found.local_directories() == [tmp_path / "index", wheels]
