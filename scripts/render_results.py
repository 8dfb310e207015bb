"""Renders eval/results/*.json into docs/results.md. No number in that page is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rankdistill.evaluation.report import render_table

ROOT = Path(__file__).parents[1]


def main() -> None:
    parts = [
        "# Results\n\nRendered by `make results` from `eval/results/*.json`; each section names the command that measured it.\n"
    ]
    for path in sorted((ROOT / "eval" / "results").glob("cross-architecture-*.json")):
        parts.append(cross_architecture(json.loads(path.read_text(encoding="utf-8"))))
    for path in sorted((ROOT / "eval" / "results").glob("bench-*.json")):
        parts.append(benchmark(path.stem, json.loads(path.read_text(encoding="utf-8"))))
    (ROOT / "docs" / "results.md").write_text("\n".join(parts), encoding="utf-8")


def cross_architecture(result: dict[str, Any]) -> str:
    setting = result["setting"]
    rows = []
    for row in result["rows"]:
        p = row["p"]
        against = "" if p is None else f"{row['wins']} : {row['losses']}"
        shown = {key: row[key] for key in ("system", "nDCG@10", "RR@10", "R@100")}
        took = "" if row["train_seconds"] is None else f"{row['train_seconds']:.0f}"
        rows.append(shown | {"p": "" if p is None else f"{p:.4f}", "wins : losses": against, "train s": took})
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"## Does a teacher help? {result['collection']}\n\n"
        f"Students: the first {result['num_layers']} layers of MiniLM, {setting['num_triples']:,} triples, "
        f"{setting['num_epochs']:g} epoch(s), learning rate {result['learning_rate']:g}, "
        f"{setting['query_length']}/{setting['doc_length']} tokens; "
        f"{result['num_test_queries']} test queries, the whole collection searched. "
        f"p: randomisation test on nDCG@10 against “{result['baseline']}”, Holm-corrected.\n\n"
        f"{render_table(rows, style='markdown', decimals=3)}\n\n"
        f"`{result['command']}` ({versions}; {result['threads']} threads)\n"
    )


def benchmark(name: str, result: dict[str, Any]) -> str:
    command = " ".join(result["command"]) if isinstance(result["command"], list) else str(result["command"])
    return f"## {name.replace('-', ' ')}\n\n{render_table(result['rows'], style='markdown', decimals=3)}\n\n`python {command}`\n"


if __name__ == "__main__":
    main()
