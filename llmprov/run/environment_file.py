"""environment.yml: read on the controller, and added to what the variables say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmprov.errors import UsageError
from llmprov.model import Desired, EnvironmentDeclaration
from llmprov.model.desired import CondaEnvVars


def read_into(desired: Desired) -> Desired:
    """The desired state with every environment.yml that it names worked in.

    Raises:
        UsageError: a file is missing or is no environment.yml.
    """
    conda_env, llm = desired.conda_env, desired.llm
    if conda_env.file and desired.llm.env_manager == "conda":
        conda_env = CondaEnvVars.model_validate(_merged(conda_env.file, conda_env.model_dump()))
    if any(declared.file for declared in llm.environments):
        further = [
            EnvironmentDeclaration.model_validate(_merged(d.file, d.model_dump())) if d.file else d
            for d in llm.environments
        ]
        llm = llm.model_copy(update={"environments": further})
    return desired.model_copy(update={"conda_env": conda_env, "llm": llm})


def _merged(name: str, values: dict[str, Any]) -> dict[str, Any]:
    path = Path(name).expanduser()
    content = _content(path)
    packages, conda_packages = _dependencies(path, content.get("dependencies") or [])
    merged = values | {
        "channels": values["channels"] or [c for c in content.get("channels") or [] if c != "nodefaults"],
        "conda_packages": [*values["conda_packages"], *conda_packages],
        "packages": [*values["packages"], *packages],
        "variables": {str(k): str(v) for k, v in (content.get("variables") or {}).items()} | values["variables"],
        "file": "",
    }
    try:
        # Checked here, where the file can be named.
        EnvironmentDeclaration.model_validate(
            {k: v for k, v in merged.items() if k in EnvironmentDeclaration.model_fields}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path} is wrong: {first['msg'].removeprefix('Value error, ')}") from None
    return merged


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"there is no file {path.absolute()}, which an environment's `file` names: correct the path")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())[:200]}") from None
    known = {"name", "prefix", "channels", "dependencies", "variables"}
    if not isinstance(content, dict) or set(content) - known:
        what = ", ".join(sorted(set(content) - known)) if isinstance(content, dict) else "no mapping"
        raise UsageError(f"{path} is no environment.yml: it has {what}; known are {', '.join(sorted(known))}")
    return content


def _dependencies(path: Path, listed: list[Any]) -> tuple[list[str], list[str]]:
    packages: list[str] = []
    conda_packages: list[str] = []
    for entry in listed:
        if isinstance(entry, str):
            conda_packages.append(entry)
        elif isinstance(entry, dict) and set(entry) == {"pip"} and isinstance(entry["pip"], list):
            packages += [str(text) for text in entry["pip"]]
        else:
            raise UsageError(f"{path} has a dependency that is neither a package nor a list for pip: {entry!r}")
    options = [text for text in packages if text.startswith("-") or "://" in text]
    if options:
        raise UsageError(f"{path} asks pip for {options[0]!r}: only requirements can be resolved, such as `numpy>=2`")
    return packages, conda_packages
