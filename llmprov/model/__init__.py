"""The records that pass between stages, and nothing else does.

desired       what a fleet should be: the variables of every role
environment   one environment as it should be, with everything worked in
artifact      a file that hosts install from
observation   what is on a host
plan          what would be done about the difference
verification  what the payload saw
report        one host's row, and the fleet's
history       what runs over time have to say
"""

from llmprov.model.artifact import Artifact
from llmprov.model.desired import (
    ROLES,
    SITE,
    CondaEnvVars,
    Desired,
    EnvironmentDeclaration,
    EnvironmentVars,
    JupyterVars,
    MinicondaVars,
    NvidiaDriverVars,
    PreflightVars,
    ProfileDefinition,
    PytorchVars,
    RoleVars,
    VenvVars,
    VerifyVars,
)
from llmprov.model.environment import EnvironmentSpec
from llmprov.model.observation import CondaPrefix, Environment, EnvironmentRecord, GpuDevice, Jupyter, Observation
from llmprov.model.plan import Action, Finding, Kind, Plan, Refusal
from llmprov.model.report import FleetReport, HostReport, RunInfo, Status
from llmprov.model.verification import Check, CheckStatus, Device, Measurement, Verification

__all__ = [
    "ROLES",
    "SITE",
    "Action",
    "Artifact",
    "Check",
    "CheckStatus",
    "CondaEnvVars",
    "CondaPrefix",
    "Desired",
    "Device",
    "Environment",
    "EnvironmentDeclaration",
    "EnvironmentRecord",
    "EnvironmentSpec",
    "EnvironmentVars",
    "Finding",
    "FleetReport",
    "GpuDevice",
    "HostReport",
    "Jupyter",
    "JupyterVars",
    "Kind",
    "Measurement",
    "MinicondaVars",
    "NvidiaDriverVars",
    "Observation",
    "Plan",
    "PreflightVars",
    "ProfileDefinition",
    "PytorchVars",
    "Refusal",
    "RoleVars",
    "RunInfo",
    "Status",
    "VenvVars",
    "Verification",
    "VerifyVars",
]
