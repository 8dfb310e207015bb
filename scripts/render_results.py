"""Renders eval/results/*.json into docs/results.md. No number in that page is typed by hand."""

from __future__ import annotations

import json

from render_benchmarks import BENCHMARKS
from render_experiments import EXPERIMENTS, RESULTS, ROOT


def main() -> None:
    intro = "Rendered by `make results` from `eval/results/*.json`; each section names the command that measured it."
    parts = [f"# Results\n\n{intro}\n"]
    for name, section in EXPERIMENTS.items():
        for path in sorted(RESULTS.glob(f"{name}-*.json")):
            parts.append(section(json.loads(path.read_text(encoding="utf-8")) | {"name": path.stem.split("-", 1)[1]}))
    for name, section in BENCHMARKS.items():
        path = RESULTS / f"bench-{name}.json"
        if path.is_file():
            parts.append(section(json.loads(path.read_text(encoding="utf-8"))))
    (ROOT / "docs" / "results.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
