"""PyTorch itself: its version and build against the declared ones, and whether it sees the GPUs it should."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from llmprov.payload.document import FAIL, PASS, WARN, check


def check_torch(torch: Any, declared: Optional[Dict[str, str]]) -> List[Dict[str, Any]]:
    """Whether `torch.__version__` is the declared version and build."""
    version = str(torch.__version__)
    if declared is None:
        return [check("torch.version", WARN, "torch %s is there and was not declared" % version, version)]
    public, _, build = version.partition("+")
    wanted = declared["version"] + ("" if declared["variant"] == "any" else "+" + declared["variant"])
    # The plain index serves CUDA builds without a local version; torch itself knows what it was built for.
    build = build or _build_of(torch)
    fits = public == declared["version"] and declared["variant"] in ("any", build)
    summary = "torch %s" % version if fits else "torch is %s where %s is declared" % (version, wanted)
    return [
        check(
            "torch.version",
            PASS if fits else FAIL,
            summary,
            version,
            wanted,
            remedy="" if fits else "run `llmprov provision`",
        )
    ]


def _build_of(torch: Any) -> str:
    cuda = torch.version.cuda
    return "cu" + cuda.replace(".", "") if cuda else "cpu"


def check_cuda(torch: Any, declared: str, gpu_count: int) -> List[Dict[str, Any]]:
    """Whether torch sees GPUs as declared: `required`, `absent`, or `any`. No GPU where one is declared is a fail."""
    available = bool(torch.cuda.is_available())
    count = int(torch.cuda.device_count()) if available else 0
    expected = {"required": max(gpu_count, 1), "absent": 0}.get(declared)
    evidence = "torch.version.cuda=%s" % torch.version.cuda
    if declared == "required" and count < max(gpu_count, 1):
        summary = "torch sees %d GPUs where %d should be" % (count, max(gpu_count, 1))
        remedy = "look at the driver (`nvidia-smi`) and at the build of torch"
        return [check("torch.cuda", FAIL, summary, count, expected, "GPUs", evidence, remedy)]
    if declared == "absent" and count:
        summary = "torch sees %d GPUs where none is declared" % count
        return [check("torch.cuda", FAIL, summary, count, 0, "GPUs", evidence, "set verify_cuda")]
    return [check("torch.cuda", PASS, "torch sees %d GPUs" % count, count, expected, "GPUs", evidence)]
