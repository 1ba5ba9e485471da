"""Documents of tables (table.json) for the tests of what is made of them."""

from typing import Any

SIGNATURE = "camvid:val:101 | v3 r50 | os 16->16 | mg 1,2,4 | config 0123abcd"


def cell(
    paper: str | None, ours: float | None = None, state: str | None = None, **changed: Any
) -> dict[str, Any]:
    """A cell of two seeds, or one without a number."""
    printed = None if paper is None else float(paper)
    apart = None if ours is None or printed is None else round(ours - printed, 2)
    known: dict[str, Any] = {
        "paper": printed,
        "printed": paper,
        "ours": ours,
        "spread": None if ours is None else 0.41,
        "difference": apart,
        "n": 0 if ours is None else 2,
        "state": state or "scored",
        "seeds": [] if ours is None else [seed(number, ours) for number in (0, 1)],
    }
    return known | changed


def seed(number: int, value: float, **changed: Any) -> dict[str, Any]:
    run = f"v3-r50-os16-camvid-s{number}-0123abcd"
    known = {
        "seed": number,
        "run": run,
        "score": f"{run}/scores/ablation-{value}/score.json",
        "signature": SIGNATURE,
        "images": 101,
        "state": "scored",
        "value": value,
        "exact": value + 0.001,
    }
    return known | changed


def row(key: str, label: list[str], **numbers: dict[str, Any]) -> dict[str, Any]:
    done = all(found["ours"] is not None for found in numbers.values())
    hours = {
        "training": 1.25,
        "evaluation": 0.1,
        "kind": "hours (NVIDIA H200)",
        "card": "NVIDIA H200",
    }
    return {
        "key": key,
        "label": label,
        "blocked": None,
        "against": None,
        "numbers": {name.replace("_", " "): found for name, found in numbers.items()},
        "images": [101] if done else [],
        "runs": ["v3-r50-os16-camvid-s0-0123abcd"] if done else [],
        "scores": [],
        "hours": hours if done else None,
        "protocol": ["flip"] if key == "pool" else [],
    }


def document(**changed: Any) -> dict[str, Any]:
    """One of five rows, in all states, with two columns of numbers."""
    rows = [
        row("mg111", ["(1,1,1)", "6, 12, 18", ""], mIoU=cell("75.36", 51.02), CRF=cell("76.10")),
        row("mg121", ["(1,2,1)", "6, 12, 18", ""], mIoU=cell("75.93", state="running 40 %")),
        row("mg124", ["(1,2,4)", "6, 12, 18", ""], mIoU=cell("76.50", 52.4), CRF=cell(None, 53.0)),
        row("rate24", ["(1,2,4)", "6, 12, 18, 24", ""], mIoU=cell("76.46", state="not run")),
        row("pool", ["(1,2,4)", "6, 12, 18", "yes"], mIoU=cell("77.21", 54.0)),
        row("jft", ["", "", ""], mIoU=cell("82.70", state="blocked: JFT is not public")),
    ]
    rows[0]["numbers"]["CRF"]["state"] = "failed 4: error[CKPT-DAMAGED]: a|b.json: is torn"
    for found in rows:
        found["numbers"].setdefault("CRF", cell(None, state="not run"))
    return {
        "format": 1,
        "table": "v3.t5",
        "title": "Atrous spatial pyramid pooling",
        "source": "arXiv 1706.05587, Table 5",
        "setting": "ResNet-101 up to block4, output stride 16, VOC 2012 val",
        "note": "",
        "scale": {
            "name": "camvid",
            "note": "CamVid (367 training images) instead of VOC",
            "compare": True,
        },
        "words": [],
        "seeds": [0, 1],
        "command": "segkit table v3.t5 scale=camvid seeds=[0,1]",
        "labels": ["multi-grid", "ASPP rates", "image pooling"],
        "columns": [
            {"name": "mIoU", "measure": "miou", "digits": 2, "words": []},
            {"name": "CRF", "measure": "miou", "digits": 2, "words": ["crf=true"]},
        ],
        "protocol": ["os 16->16", "no flip"],
        "rows": rows,
        "trainings": [
            {
                "run": "v3-r50-os16-camvid-s0-0123abcd",
                "rows": ["mg124", "pool"],
                "hours": 1.25,
                "kind": "hours (NVIDIA H200)",
                "card": "NVIDIA H200",
            }
        ],
        "order": {
            "column": "mIoU",
            "rows": 3,
            "of": 3,
            "one_seed": [],
            "equal": [],
            "pairs": 3,
            "same": 2,
            "undecided": [["pool", "mg124"]],
            "tau": 0.67,
            "best_of_paper": ["pool"],
            "best_of_ours": ["pool"],
            "neighbours": [
                {"better": "pool", "worse": "mg124", "holds": None},
                {"better": "mg124", "worse": "mg111", "holds": True},
            ],
        },
    } | changed
