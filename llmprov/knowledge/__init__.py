"""Data tables and their loader: which wheel runs on which GPU with which driver."""

from llmprov.knowledge.tables import (
    COMPANIONS,
    GPUS,
    PROFILES,
    SUPPORTED_OS,
    XIDS,
    Gpu,
    architecture_runs_on,
    companion,
    conda_installer,
    cuda_of_driver,
    driver_floor,
    gpu_by_id,
    is_anacondas,
    torch_release,
)

__all__ = [
    "COMPANIONS",
    "GPUS",
    "PROFILES",
    "SUPPORTED_OS",
    "XIDS",
    "Gpu",
    "architecture_runs_on",
    "companion",
    "conda_installer",
    "cuda_of_driver",
    "driver_floor",
    "gpu_by_id",
    "is_anacondas",
    "torch_release",
]
