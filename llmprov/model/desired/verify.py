"""The role `verify`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmprov.model.desired.types import ENV_PATH, SHARED_ENV_PATH, AbsolutePath, RoleVars

#: Limits outside of these percents of a datasheet are mistakes: nothing reaches more, nothing sound reaches less.
LEAST_LIMIT, MOST_LIMIT = 40.0, 100.0

LimitKey = Literal["bandwidth_gb_s", "tflops_bf16", "tflops_fp16", "tflops_tf32", "tflops_fp32"]


class VerifyVars(RoleVars):
    """What a host must show before it counts as working."""

    role = "verify"
    summary = "Run the payload under the environment's own Python and return what it saw."

    env_path: AbsolutePath = Field(
        ENV_PATH, description="Directory of the environment.", json_schema_extra=SHARED_ENV_PATH
    )
    cuda: Literal["auto", "required", "absent"] = Field(
        "auto",
        description="Whether torch must see a GPU: `auto` requires one where a host has an NVIDIA GPU or the declared "
        "build is a CUDA one.",
    )
    imports: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")]] = Field(
        [], description="Modules that must import, beside those of the declared packages."
    )
    min_accuracy: float = Field(
        0.95,
        gt=0.5,
        le=1,
        description="Held-out accuracy that the small classifier must reach, as a fraction.",
    )
    timeout_s: int = Field(
        600, gt=0, description="How long, in seconds, the payload may run on a host; a soak's minutes come on top."
    )
    level: Literal["quick", "standard", "soak"] = Field(
        "quick",
        description="How much is measured: `quick` (under a minute), `standard` (some minutes: compiled training, the "
        "input pipeline, fine-tuning, all GPUs together), `soak` (`quick`, then training for verify_soak_minutes).",
    )
    soak_minutes: float = Field(60, gt=0, le=10080, description="How long a soak trains, in minutes.")
    stop: bool = Field(False, description="End the soak that runs on the host, and take what it measured.")
    gpu_count: int = Field(-1, ge=-1, description="How many GPUs the host must have; -1 is any number.")
    gpu_model: str = Field(
        "", description="Which GPU the host must have, by its name in llmprov's tables (`H100 PCIe`); empty: any."
    )
    mig: bool = Field(False, description="Whether the GPUs are to be in MIG mode.")
    model_size: Literal["auto", "1b", "large", "medium", "small", "mini", "tiny"] = Field(
        "auto", description="Which transformer is trained; `auto` takes the largest that fits the device."
    )
    limits: dict[LimitKey, Annotated[float, Field(ge=LEAST_LIMIT, le=MOST_LIMIT)]] = Field(
        {},
        description="The least that GPUs must reach, in percent (40 to 100) of their datasheet, over llmprov's own: "
        "any of `bandwidth_gb_s`, `tflops_bf16`, `tflops_fp16`, `tflops_tf32`, `tflops_fp32`.",
    )
    min_link_gbit_s: float = Field(
        0, ge=0, description="The least speed, in Gbit/s, of Ethernet links that are up; 0 is any."
    )
    data_path: AbsolutePath = Field(
        "/var/tmp", description="Directory on the disk whose read rate and input pipeline `standard` measures."
    )
