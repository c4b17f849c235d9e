"""Jupyter: its kernels and its service. What it needs in environments is part of those."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from llmprov.model import Action, Desired, EnvironmentSpec, Jupyter, JupyterVars, Kind, Refusal
from llmprov.plan.specs import declarations, kernels_of

UNIT = "llmprov-jupyter.service"


def refusals(desired: Desired, environments: list[EnvironmentSpec]) -> list[Refusal]:
    """Declarations of Jupyter that can never hold."""
    wanted = desired.jupyter
    if wanted.state == "absent":
        return []
    present = {spec.path for spec in environments if spec.state == "present"}
    found = [
        _refuse(
            f"the environment {path} for Jupyter",
            "the environments that are declared",
            "declare it, as the main one or among llm_environments",
        )
        for path in dict.fromkeys([wanted.env_path, *kernels_of(desired)])
        if path not in present
    ]
    if wanted.service and wanted.service_user in ("", "root"):
        found.append(
            _refuse(
                "the service of Jupyter",
                f"the user {wanted.service_user or 'nobody named'}: who reaches it runs programs as that user",
                "set jupyter_service_user to an ordinary user of the host",
            )
        )
    return found


def _refuse(this: str, that: str, remedy: str) -> Refusal:
    return Refusal(component="jupyter", this=this, that=that, remedy=remedy)


def kernel_name(path: str) -> str:
    """The name a kernel is registered under: the environment's own."""
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in PurePosixPath(path).name.lower()) or "python"


def plan_jupyter(desired: Desired, there: Jupyter) -> Action:
    """Kernels and service against the declaration."""
    wanted = desired.jupyter
    ours = [kernel for kernel in there.kernels if kernel.python]
    if wanted.state == "absent":
        left = [k.name for k in ours] + ([UNIT] if there.service.unit is not None else [])
        if not left:
            return Action(component="jupyter", kind=Kind.NONE)
        return Action(component="jupyter", kind=Kind.REMOVE, before=", ".join(left), why="declared absent")
    why = [*_kernel_differences(desired, there), *_service_differences(desired, there)]
    after = f"kernels {', '.join(map(kernel_name, kernels_of(desired)))}" + (
        f"; service on port {wanted.port}" if wanted.service else ""
    )
    if not why:
        return Action(component="jupyter", kind=Kind.NONE, before=after, after=after)
    kind = Kind.UPGRADE if ours or there.service.unit is not None else Kind.INSTALL
    return Action(component="jupyter", kind=kind, after=after, why="; ".join(why))


def _kernel_differences(desired: Desired, there: Jupyter) -> list[str]:
    wanted: dict[str, Any] = files(desired)["kernels"]
    has = {kernel.name: kernel.spec for kernel in there.kernels}
    missing = [
        f"the kernel {name} is not {'as it was ' if has.get(name) else ''}registered"
        for name, spec in wanted.items()
        if has.get(name) != spec
    ]
    extra = [f"the kernel {k.name} is not declared" for k in there.kernels if k.python and k.name not in wanted]
    return missing + extra


def variables_of(desired: Desired) -> dict[str, str]:
    """The environment variables of the environment that Jupyter is in."""
    found = [d.variables for d in declarations(desired) if d.path == desired.jupyter.env_path]
    return dict(found[0]) if found else {}


def _quoted(text: str) -> str:
    """A word in a systemd unit (systemd.syntax(7)): quotes and backslashes escaped, no specifiers."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _service_differences(desired: Desired, there: Jupyter) -> list[str]:
    wanted, service = desired.jupyter, there.service
    if not wanted.service:
        return ["the service is not declared"] if service.unit is not None else []
    if service.unit != unit(wanted, variables_of(desired)):
        return ["the service is not as declared" if service.unit is not None else "there is no service"]
    if not service.token_there:
        return ["the service has no token"]
    return [] if service.enabled and service.active else ["the service does not run"]


def kernel_folder(user: str) -> str:
    """Where kernels are registered, as Jupyter's documentation of its search path says: for all users, or for one."""
    return f"~{user}/.local/share/jupyter/kernels" if user else "/usr/local/share/jupyter/kernels"


def files(desired: Desired) -> dict[str, Any]:
    """What the role writes, and where: each kernel's specification by name, and the unit."""
    if desired.jupyter.state == "absent":
        return {"folder": kernel_folder(desired.jupyter.kernel_user)}
    kernels = {
        kernel_name(path): {
            "argv": [f"{path}/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": f"Python ({PurePosixPath(path).name})",
            "language": "python",
            "metadata": {"debugger": True, "llmprov": path},
        }
        for path in kernels_of(desired)
    }
    wanted = desired.jupyter
    return {
        "kernels": kernels,
        "unit": unit(wanted, variables_of(desired)),
        "folder": kernel_folder(wanted.kernel_user),
    }


def unit(wanted: JupyterVars, variables: dict[str, str]) -> str:
    """The systemd unit. The token comes by a file that only root reads, never by the command line."""
    directory = wanted.notebook_dir.replace("%", "%%") or "~"
    environment = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(variables.items()))
    command = f"{wanted.env_path}/bin/jupyter-{'lab' if wanted.interface == 'lab' else 'notebook'}"
    return f"""\
# Written by llmprov; changes are overwritten.
[Unit]
Description=Jupyter in {wanted.env_path}
After=network.target

[Service]
User={wanted.service_user}
WorkingDirectory={directory}
{environment}EnvironmentFile=/etc/llmprov/jupyter.token
ExecStart={command} --no-browser --ServerApp.ip=127.0.0.1 --ServerApp.port={wanted.port} \\
  --ServerApp.port_retries=0
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""
