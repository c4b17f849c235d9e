"""Shipping the payload to a host and reading what it sent back."""

from __future__ import annotations

import io
import json
import signal
import zipfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import llmprov
from llmprov.knowledge import XIDS, gpu_by_id
from llmprov.model import Check, CheckStatus, Desired, Observation, Plan, Verification, VerifyVars
from llmprov.plan import specs

#: A document larger than this is no document, in bytes.
DOCUMENT_LIMIT = 4_000_000

MAIN = "from llmprov.payload.__main__ import main\nraise SystemExit(main())\n"


@cache
def zipapp() -> bytes:
    """The payload as one file that any Python runs; the same bytes for the same sources."""
    package = Path(llmprov.__file__).parent
    files = {"llmprov/__init__.py": package / "__init__.py"}
    files |= {f"llmprov/{p.relative_to(package)}": p for p in sorted((package / "payload").rglob("*.py"))}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in [("__main__.py", MAIN), *((n, p.read_text("utf-8")) for n, p in files.items())]:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def declaration(desired: Desired, planned: Plan, seen: Observation) -> dict[str, Any]:
    """What the payload is told: what was declared, and what the tables know of this host's GPUs."""
    variant = planned.pytorch_variant or ("cpu" if desired.pytorch.variant == "auto" else desired.pytorch.variant)
    cuda: str = desired.verify.cuda
    if cuda == "auto":
        cuda = "required" if seen.gpus or variant.startswith("cu") else "any"
    spec = specs.verified_spec(desired, planned.pytorch_variant)
    torch_wanted = desired.pytorch.state == "present"
    return {
        "packages": spec.packages if spec else [],
        "imports": list(desired.verify.imports),
        "torch": {"version": desired.pytorch.version, "variant": variant} if torch_wanted else None,
        "cuda": cuda,
        "gpu_count": len(seen.gpus),
        "min_accuracy": desired.verify.min_accuracy,
        "timeout_s": desired.verify.timeout_s,
        "env_path": desired.verify.env_path,
        "expected_gpu_count": None if desired.verify.gpu_count < 0 else desired.verify.gpu_count,
        "expected_gpu_model": desired.verify.gpu_model,
        "mig": desired.verify.mig,
        "model_size": desired.verify.model_size,
        "limits": dict(desired.verify.limits),
        "min_link_gbit_s": desired.verify.min_link_gbit_s,
        "data_path": desired.verify.data_path,
        "gpu_rows": {gpu.device_id: asdict(row) for gpu in seen.gpus if (row := gpu_by_id(gpu.device_id))},
        "xids": XIDS if seen.gpus else {},
    }


def environment_variables(desired: Desired) -> dict[str, str]:
    """The environment variables under which the payload runs: those of the environment's users."""
    spec = specs.verified_spec(desired, None)
    return dict(spec.variables) if spec else {}


def read(answer: dict[str, Any], wanted: VerifyVars) -> Verification:
    """The document in a module's answer, or a failing one that says what came instead. All of it is untrusted."""
    if answer.get("gone"):
        sentence, remedy = "no soak runs on this host, and none has left its results", "start one: --level soak"
        return _ended(sentence, "", remedy, CheckStatus.INCONCLUSIVE)
    code, text = answer["exit_code"], str(answer.get("document", ""))
    tail = _tail(str(answer.get("stderr", "")))
    if answer.get("timed_out"):
        return _ended(
            f"the payload did not finish within {wanted.timeout_s} s",
            tail,
            "look at the host's load, or raise verify_timeout_s",
        )
    if code is None:
        return _ended(
            f"there is no Python at {wanted.env_path}/bin/python to verify",
            tail,
            "provision the host first: `llmprov provision -i INVENTORY`",
        )
    if code != 0:
        return _ended(f"the payload {_ending(code)}", tail, "read the evidence; if a package crashed, install it anew")
    if answer.get("truncated") or len(text) > DOCUMENT_LIMIT:
        return _ended(f"the payload printed more than {DOCUMENT_LIMIT} bytes", _tail(text[-2000:]), GARBAGE_REMEDY)
    try:
        return Verification.model_validate(json.loads(text, parse_constant=_no_constant))
    except (ValueError, ValidationError, RecursionError) as error:
        reason = str(error).splitlines()[0][:300]
        return _ended(f"the payload printed no sound document: {reason}", text[:1500].strip(), GARBAGE_REMEDY)


GARBAGE_REMEDY = "look for a sitecustomize or a .pth file in the environment that prints"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no figure")


def _ending(code: int) -> str:
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


def _tail(text: str) -> str:
    return text.strip()[-1500:]


def _ended(summary: str, evidence: str, remedy: str, status: CheckStatus = CheckStatus.FAIL) -> Verification:
    check = Check(id="payload.run", status=status, summary=summary, evidence=evidence, remedy=remedy)
    return Verification(payload_version="none", elapsed_s=0.0, checks=[check])
