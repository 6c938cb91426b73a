"""A comparison of many methods by many attacks and two judges, and one in which attackers failed."""

from __future__ import annotations

import math
from typing import Any

from datamodules import DrawnFaces
from lightning_app.metrics.scores import Indicators
from lightning_app.report.compare import RELEASED, Axis
from lightning_app.report.html import Comparison, Example
from lightning_app.report.judges import Clean
from lightning_app.studies.compare.scoring import Indicated, scored

JUDGES = {"clean": "runs/clean", "onnx": "a.onnx"}
ATTACKS = [f"attack {n}" for n in range(8)]


def many(count: int = 25) -> dict[str, dict[str, float]]:
    """Methods whose accuracy falls with their number, and what each attack sees of them as well.

    Judge `onnx` sees most of the even ones by attack 3, `clean` most of the odd ones by attack 5.
    """
    found = {}
    for n in range(count):
        metrics = {
            "accuracy": 0.95 - 0.01 * n,
            "accuracy_low": 0.93 - 0.01 * n,
            "accuracy_high": 0.97 - 0.01 * n,
        }
        for attack in (RELEASED, *ATTACKS):
            head = "" if attack == RELEASED else f"{attack}/"
            metrics |= {f"{head}dssim": 0.1, f"{head}psnr": 20.0}
            for judge in JUDGES:
                most = attack == ("attack 5" if judge == "clean" else "attack 3")
                gain = 0.2 * most * (1 if (judge == "onnx") == (n % 2 == 0) else 0.5)
                value = 0.7 - 0.02 * n + gain
                metrics |= {
                    f"{head}rank1/{judge}": value,
                    f"{head}rank1_low/{judge}": value - 0.02,
                    f"{head}rank1_high/{judge}": value + 0.02,
                    f"{head}verification/{judge}": value,
                }
        found[f"method {n}"] = metrics
    return found


def page_of(results: dict[str, dict[str, float]], **more: Any) -> Comparison:
    faces = DrawnFaces(2, 1, 16).__getitems__([0, 1])["image"].float() / 255
    given: dict[str, Any] = {
        "title": "many", "results": results, "description": {label: f"what {label} is" for label in results},
        "attacks": ATTACKS, "judges": JUDGES, "recognisers": {}, "axis": Axis("rank1"),
        "clean": {"clean": Clean(0.8, 0.78, 0.82), "onnx": Clean(0.983, 0.97, 0.99)},
        "words": dict.fromkeys(results, "Plain words."),
        "examples": {label: [Example(s, faces) for s in (RELEASED, *ATTACKS)] for label in results},
        "commands": ["python main.py compare --config x.yaml"], "versions": {"commit": "0123456789ab"},
        "scored": scored(indicated(), "onnx", "none"),
    }  # fmt: skip
    return Comparison(**(given | more))


def indicated(count: int = 25) -> dict[str, Indicated]:
    """Methods that are the more private and the less accurate, the higher their number; an attack on 11 failed."""
    made = {f"method {n}": Indicated(Indicators(0.02 * n, 0.02 * n, 0.01 * n, 0.01 * n, 1 - 0.01 * n), "attack 3")
            for n in range(count)}  # fmt: skip
    hole = Indicators(0.22, 0.22, math.nan, math.nan, 0.89)
    return made | {"method 11": Indicated(hole, "", "attack 3: its run failed")}


FELL = {"method 3": dict.fromkeys(ATTACKS, "its training failed"), "method 4": {"attack 0": "its training failed"},
        "method 1": {"attack 3": "its loss still falls"}}  # fmt: skip


def with_holes(count: int = 6) -> dict[str, dict[str, float]]:
    """Methods of which every attacker of 3 failed, and the first of 4; both would beat everybody as measured."""
    results = many(count)
    for label, attacks in (("method 3", ATTACKS), ("method 4", ["attack 0"])):
        kept = {k: v for k, v in results[label].items() if not k.startswith(tuple(f"{a}/" for a in attacks))}
        results[label] = {k: 0.02 if "rank1" in k or "verif" in k else v for k, v in kept.items()}
        results[label]["accuracy"] = 0.99
    return results
