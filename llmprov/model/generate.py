"""Write everything that follows from the model: role defaults, argument specs, docs, schema.

Run by `make generate` in a checkout; a test fails when what is committed differs.
"""

from __future__ import annotations

import json
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from llmprov.model import ROLES, SITE, FleetReport, RoleVars
from llmprov.model.desired import SHARED, role_default, shared_name

NOTE = "# Generated from llmprov/model/desired by `make generate`; change it there.\n"


def _plain(annotation: Any) -> Any:
    """The type under Annotated[...]."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _spec(role: type[RoleVars], name: str, field: FieldInfo) -> dict[str, Any]:
    annotation = _plain(field.annotation)
    spec: dict[str, Any] = {"description": field.description}
    if annotation is SecretStr:
        return spec | {"type": "str", "no_log": True, "default": ""}
    if typing.get_origin(annotation) is dict:
        spec["type"] = "dict"
    elif typing.get_origin(annotation) is list:
        spec |= {"type": "list", "elements": _scalar(_plain(typing.get_args(annotation)[0]))}
    elif typing.get_origin(annotation) is typing.Literal:
        spec |= {"type": "str", "choices": list(typing.get_args(annotation))}
    else:
        spec["type"] = _scalar(annotation)
    return spec | {"default": role_default(role, name)}


def _scalar(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "dict"
    if isinstance(annotation, types.UnionType):
        raise TypeError(f"a variable has one type, and {annotation} is several")
    return {str: "str", int: "int", float: "float", bool: "bool"}[annotation]


class _Indented(yaml.SafeDumper):
    """Lists indented under their key, as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _dump(data: Any) -> str:
    text: str = yaml.dump(data, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=100)
    return text


def defaults(role: type[RoleVars]) -> str:
    """`defaults/main.yml` of a role."""
    parts = [f"---\n{NOTE}"]
    for name, field in role.model_fields.items():
        value = _dump({f"{role.role}_{name}": role_default(role, name)})
        parts.append(f"\n# {_wrapped(field.description or '')}\n{value}")
    return "".join(parts)


def _wrapped(text: str) -> str:
    return "\n# ".join(textwrap.wrap(text, 108))


def argument_specs(role: type[RoleVars]) -> str:
    """`meta/argument_specs.yml` of a role."""
    options = {f"{role.role}_{name}": _spec(role, name, field) for name, field in role.model_fields.items()}
    spec = {"argument_specs": {"main": {"short_description": role.summary, "options": options}}}
    return f"---\n{NOTE}{_dump(spec)}"


def variables_table(role: type[RoleVars]) -> str:
    """The Markdown table of a role's variables."""
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, field in role.model_fields.items():
        spec = _spec(role, name, field)
        kind = f"list of {spec['elements']}" if spec["type"] == "list" else spec["type"]
        if "choices" in spec:
            kind = " or ".join(f"`{choice}`" for choice in spec["choices"])
        default = f"`{json.dumps(spec['default'] if isinstance(field.default, SecretStr) else field.default)}`"
        shared = shared_name(role, name)
        note = f" Where it is not set, `{shared}` is taken." if shared else ""
        rows.append(f"| `{role.role}_{name}` | {kind} | {default} | {field.description}{note} |")
    return "\n".join(rows) + "\n"


def role_page(role: type[RoleVars], about: str) -> str:
    """A role's README: what is written by hand in `about.md`, then the table."""
    return f"# Role `{role.role}`\n\n{role.summary}\n\n{about.strip()}\n\n## Variables\n\n{variables_table(role)}"


def schema() -> str:
    """JSON Schema of fleet.json."""
    document = FleetReport.model_json_schema(mode="serialization")
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def everything(root: Path) -> dict[Path, str]:
    """Every generated file of a checkout and its text."""
    files: dict[Path, str] = {root / "docs/schema/fleet.schema.json": schema()}
    shared = "".join(f"- `{name}`: {sentence}\n" for name, sentence in SHARED.items())
    pages = ["# Variables\n\nFor several roles at once:\n\n", shared]
    for role in ROLES:
        directory = root / "roles" / role.role
        about = root / "docs/roles" / f"{role.role}.about.md"
        page = role_page(role, about.read_text("utf-8") if about.exists() else "")
        files[directory / "defaults/main.yml"] = defaults(role)
        files[directory / "meta/argument_specs.yml"] = argument_specs(role)
        files[directory / "README.md"] = page
        files[root / "docs/roles" / f"{role.role}.md"] = page
        pages.append(f"\n## `{role.role}`\n\n{variables_table(role)}")
    pages += [f"\n## `{site.role}`\n\n{site.summary}\n\n{variables_table(site)}" for site in SITE]
    files[root / "docs/variables.md"] = "".join(pages)
    return files


def main() -> int:
    """Write every generated file below the current directory."""
    root = Path.cwd()
    if not (root / "roles/preflight").is_dir():
        sys.stderr.write("run this in a checkout of llmprov: there is no roles/preflight here\n")
        return 2
    for path, text in everything(root).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
