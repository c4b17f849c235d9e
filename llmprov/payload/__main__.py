"""`python -m llmprov.payload`: run the checks and print the document."""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Optional

from llmprov.payload import PAYLOAD_VERSION, classifier, language_model, packages, torch_build
from llmprov.payload.document import FAIL, PASS, CleanStdout, check, say

#: What is looked at where nothing was declared, as when started by hand.
NOTHING_DECLARED: Dict[str, Any] = {
    "packages": [],
    "imports": [],
    "torch": None,
    "cuda": "any",
    "gpu_count": 0,
    "min_accuracy": 0.95,
}


def collect(declared: Dict[str, Any], level: str) -> Dict[str, Any]:
    """Run everything of a level and return the document."""
    began = time.monotonic()
    version = platform.python_version()
    checks = [check("python.version", PASS, "Python %s" % version, version)]
    checks += packages.check_packages(declared["packages"])
    checks += packages.check_imports(declared["imports"])
    document: Dict[str, Any] = {
        "payload_version": PAYLOAD_VERSION,
        "level": level,
        "python": version,
        "torch": None,
        "device": "cpu",
        "measurements": [],
    }
    document["checks"] = checks + _torch(declared, document)
    document["elapsed_s"] = round(time.monotonic() - began, 3)
    return document


def _torch(declared: Dict[str, Any], document: Dict[str, Any]) -> List[Dict[str, Any]]:
    imported = packages.check_import("torch")
    if imported["status"] != PASS:
        return [imported] if declared["torch"] else []
    import torch

    document["torch"] = str(torch.__version__)
    checks = torch_build.check_torch(torch, declared["torch"])
    checks += torch_build.check_cuda(torch, declared["cuda"], declared["gpu_count"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document["device"] = torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu"
    say("training a classifier on %s" % device)
    try:
        result = classifier.train(torch, device)
    except Exception as error:
        summary = "training raised %s: %s" % (type(error).__name__, str(error)[:300])
        return [
            *checks,
            check("train.run", FAIL, summary, evidence=traceback.format_exc(), remedy="reinstall torch"),
        ]
    judged, document["measurements"] = classifier.judge(result, declared["min_accuracy"])
    if any(re.match(r"transformers\b", text, re.I) for text in declared["packages"]):
        more, figures = language_model.prove(torch)
        judged, document["measurements"] = judged + more, document["measurements"] + figures
    return checks + judged


def main(argv: Optional[List[str]] = None) -> int:
    """Print one JSON document, alone, on standard output; exit code 0 whenever it was printed."""
    parser = argparse.ArgumentParser(prog="llmprov.payload", description=__doc__)
    parser.add_argument("--level", choices=["quick"], default="quick", help="how much to measure")
    parser.add_argument("--declared", metavar="FILE", help="JSON of what was declared; - is standard input")
    options = parser.parse_args(argv)
    declared = dict(NOTHING_DECLARED)
    if options.declared:
        with sys.stdin if options.declared == "-" else Path(options.declared).open(encoding="utf-8") as handle:
            declared.update(json.load(handle))
    with CleanStdout() as out:
        out.write(collect(declared, options.level))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
