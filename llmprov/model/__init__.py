"""The records that pass between stages, and nothing else does.

desired       what a fleet should be: the variables of every role
observation   what is on a host
plan          what would be done about the difference
verification  what the payload saw
report        one host's row, and the fleet's
"""

from llmprov.model.desired import ROLES, Desired, PreflightVars, PytorchVars, RoleVars, VenvVars, VerifyVars
from llmprov.model.observation import Environment, GpuDevice, Observation
from llmprov.model.plan import Action, Kind, Plan, Refusal
from llmprov.model.report import FleetReport, HostReport, RunInfo, Status
from llmprov.model.verification import Check, CheckStatus, Measurement, Verification

__all__ = [
    "ROLES",
    "Action",
    "Check",
    "CheckStatus",
    "Desired",
    "Environment",
    "FleetReport",
    "GpuDevice",
    "HostReport",
    "Kind",
    "Measurement",
    "Observation",
    "Plan",
    "PreflightVars",
    "PytorchVars",
    "Refusal",
    "RoleVars",
    "RunInfo",
    "Status",
    "VenvVars",
    "Verification",
    "VerifyVars",
]
