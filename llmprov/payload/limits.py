"""Figures against what a card's datasheet promises: a suspect is measured twice before it is called so."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from llmprov.payload.document import FAIL, PASS, check, say
from llmprov.payload.measure.figures import median

#: Key of a limit -> key of the figure it is for.
FIGURES = {
    "bandwidth_gb_s": "memory.bandwidth_gb_s",
    "tflops_bf16": "matmul.tflops_bf16",
    "tflops_fp16": "matmul.tflops_fp16",
    "tflops_tf32": "matmul.tflops_tf32",
    "tflops_fp32": "matmul.tflops_fp32",
}

REMEDY = (
    "look what holds it back (clocks, power, temperature, PCIe), then reset the GPU; if it stays slow, have it replaced"
)


def datasheet(row: Dict[str, Any], key: str) -> Optional[float]:
    """What the card's datasheet says under the key of a limit, in the limit's unit."""
    if key == "bandwidth_gb_s":
        return row.get("bandwidth_gb_s")
    return (row.get("tflops") or {}).get(key.rpartition("_")[2])


def judge(
    label: str,
    declared: Dict[str, Any],
    figures: List[Dict[str, Any]],
    again: Callable[[str], List[Dict[str, Any]]],
) -> List[Dict[str, Any]]:
    """One check a limit whose figure was measured on a card the tables know; `again` measures a figure once more."""
    row, found = declared.get("gpu_row") or {}, []
    wanted = {**(row.get("limits") or {}), **(declared.get("limits") or {})}
    for key, percent in sorted(wanted.items()):
        promised, values = datasheet(row, key), _of(figures, FIGURES.get(key, key))
        if promised and values is not None:
            found.append(_judged(label, key, percent, promised, values, again))
    return found


def _of(figures: List[Dict[str, Any]], key: str) -> Optional[float]:
    return next((figure["value"] for figure in figures if figure["key"] == key), None)


def _judged(
    label: str,
    key: str,
    percent: float,
    promised: float,
    first: float,
    again: Callable[[str], List[Dict[str, Any]]],
) -> Dict[str, Any]:
    limit = promised * percent / 100
    unit = "GB/s" if key == "bandwidth_gb_s" else "TFLOP/s"
    name = "%s.limit.%s" % (label, key)
    readings = [first]
    if first < limit:
        say("%s of %s is low: measuring once more" % (key, label))
        second = _of(again(FIGURES[key]), FIGURES[key])
        readings += [] if second is None else [second]
    best = max(readings)
    evidence = "readings %s; the datasheet says %g" % (", ".join("%.4g" % value for value in readings), promised)
    told = "%.4g %s, %.0f %% of the datasheet" % (best, unit, 100 * best / promised)
    if best < limit:
        summary = "%s is slow: %s where %g %% are asked for" % (label, told, percent)
        return check(name, FAIL, summary, median(readings), limit, unit, evidence, REMEDY)
    return check(name, PASS, "%s reaches %s" % (label, told), best, limit, unit, evidence)
