"""Data tables and their loader: which wheel runs on which GPU with which driver."""

from llmprov.knowledge.tables import (
    GPUS,
    SUPPORTED_OS,
    Gpu,
    architecture_runs_on,
    driver_floor,
    gpu_by_id,
    torch_release,
)

__all__ = [
    "GPUS",
    "SUPPORTED_OS",
    "Gpu",
    "architecture_runs_on",
    "driver_floor",
    "gpu_by_id",
    "torch_release",
]
