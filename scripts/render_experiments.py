"""Sections of docs/results.md about experiments: what eval/*.py have measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rankdistill.evaluation.report import render_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "eval" / "results"


def teachers(result: dict[str, Any]) -> str:
    return (
        f"## Does a teacher help? {named(result)}\n\n{made(result)} The whole collection is searched. p: randomisation "
        f"test on nDCG@10 against “{result['baseline']}”, Holm-corrected.\n\n"
        f"{compared(result['rows'])}\n\n{by(result)}"
    )


def students(result: dict[str, Any]) -> str:
    is_lists = result.get("num_docs", 2) > 2
    own = "by InfoNCE on each list" if is_lists else "by RankNet on the triples"
    with_labels = "with InfoNCE" if is_lists else "with InfoNCE where the student has it"
    is_trained = result["setting"]["teachers"] == "trained"
    teacher = (
        "a cross-encoder's scores" if is_trained or result["held_out"] else "the scores of MiniLM as it is published"
    )
    published = (
        "a cross-encoder and a ColBERT of six layers, MiniLM and BM25" if result["held_out"] else "MiniLM and BM25"
    )
    several = "cross-encoders of six and three layers, a dense model and BM25" if is_trained else published
    six_times = (
        " TK sees each row six times." if any(row["system"].startswith("tk,") for row in result["reranked"]) else ""
    )
    divided = (
        " SPLADE (scores / 10) learns labels and margins as if its scores, which start as a bag of words', were divided by 10."
        if any(row["system"].startswith("splade (scores / 10)") for row in result["reranked"])
        else ""
    )
    found = (
        f"## Students and teachers: {named(result)}\n\n{made(result)} Alone: labels only, by InfoNCE for students that score all "
        f"docs of a batch (dot, colbert, splade), {own} for the others. T1: Margin-MSE with "
        f"{teacher} ({with_labels}). T2: the same with the mean z-scores of {several}.{six_times}{divided} "
        "p: randomisation test on nDCG@10 against the same student alone, Holm-corrected.\n\n"
        f"{both_ways(result)}"
    )
    path = RESULTS / f"latency-{result['name']}.json"
    if path.is_file():
        latency = json.loads(path.read_text(encoding="utf-8"))
        rows = [{key: "" if value is None else value for key, value in row.items()} for row in latency["rows"]]
        found += (
            f"What they take: the median of {latency['num_queries']} queries one by one ({latency['threads']} threads, load "
            f"{latency['load_1min']:.1f}), documents precomputed but for the cross-encoder.\n\n"
            f"{render_table(rows, style='markdown', decimals=1)}\n\n`{latency['command']}`\n\n"
            f"{figure(result, latency)}\n\n"
        )
    return found + by(result)


def unlabelled(result: dict[str, Any]) -> str:
    """Labels of some queries, and a teacher's scores of all."""
    own = result | {"held_out": False}  # there is one teacher, which scores queries that it has learnt from, too
    ensemble = (
        "Ensemble: the same with the mean z-scores of the cross-encoder, MiniLM and BM25. "
        if "ensemble_scale" in result
        else ""
    )
    return (
        f"## A teacher for queries without labels: {named(own)}\n\n{made(own)} Here {result['num_labelled']:,} training "
        "queries have labels; a cross-encoder of six layers learns from these. Labels: a student learns from them, too, for its "
        "epochs or in as many steps as with a teacher. Teacher: a student learns from what the cross-encoder says of candidates of "
        f"all {result['num_scored']:,} training queries (BM25's first {result['num_docs']}, {result['num_docs'] // 2} of the whole "
        f"collection), by Margin-MSE and by taking its favourite for relevant; no label is read. {ensemble}"
        "p: randomisation test on nDCG@10 against labels in as many steps, Holm-corrected.\n\n"
        f"{both_ways(result)}{by(result)}"
    )


def both_ways(result: dict[str, Any]) -> str:
    """Tables of students that re-rank, and search where they can."""
    found = f"Re-ranking BM25's first 100:\n\n{compared(result['reranked'])}\n\n"
    if "like T1" in result["reranked"][0]:
        found += (
            "Of 10: re-ranking BM25's first 10 only. Like T1: how scores correlate with those of T1 (the teacher) within "
            "a test query's candidates."
            "\n\n"
        )
    if result["searched"]:
        found += f"Searching the whole collection:\n\n{compared(result['searched'])}\n\n"
    return found


def losses(result: dict[str, Any]) -> str:
    return (
        f"## Losses: {named(result)}\n\n{made(result)} Each learns the rows' own docs only, from T1's scores, and re-ranks "
        f"BM25's first 100. p: against the same student without a teacher.\n\n{compared(result['rows'])}\n\n{by(result)}"
    )


def margins(result: dict[str, Any]) -> str:
    return (
        f"## Labels and margins: {named(result)}\n\n{made(result)} Alone: labels only. T1: the same and Margin-MSE of its "
        "scores, as in “Students and teachers”. x 0.3: of its scores times 0.3. At a tenth of the weight: Margin-MSE counts a "
        "tenth of what it does there. Spread evenly: its scores in their order, at equal distances over all rows; ranks: its "
        "order of a row's docs; both scaled to the spread of its margins. Where it's right: without rows where it likes "
        "another doc better than the relevant one. p: randomisation test on nDCG@10 against the same student alone, "
        f"Holm-corrected.\n\n{both_ways(result)}{by(result)}"
    )


def scales(result: dict[str, Any]) -> str:
    return (
        f"## Scale and negatives: {named(result)}\n\n{made(result)} A dot student by Margin-MSE alone, re-ranking BM25's "
        "first 100: T1's scores of the triples times a factor; and T1's scores of a relevant doc and BM25's first others, as many "
        f"steps each. p: against x 1, and against one negative.\n\n{compared(result['rows'])}\n\n{by(result)}"
    )


def exits(result: dict[str, Any]) -> str:
    seconds = result["train_seconds"]
    alone = sum(value for label, value in seconds.items() if label.endswith("alone"))
    elsewhere = "".join(
        f"The same models on {name}, of which they have seen nothing:\n\n{compared(rows)}\n\n"
        for name, rows in result.get("zero_shot", {}).items()
    )
    gained = ""
    if "gains" in result:
        rows = [row | {"p": f"{row['p']:.4f}"} for row in result["gains"]]
        gained = (
            "What the teacher adds, nDCG@10 of each row that was trained (randomisation test, Holm-corrected over all of them):\n\n"
            f"{render_table(rows, style='markdown', decimals=3)}\n\n"
        )
    taught = ", with a teacher" if "gains" in result else ""
    ways = ", ".join(f"{label} {value:.0f} s" for label, value in seconds.items() if not label.endswith("alone"))
    return (
        f"## One model, many exits: {result['collection']}{taught}{over_seeds(result)}\n\n{made(result)} Loss: "
        f"{' + '.join(result['loss'])} at every exit. The whole collection is searched. "
        "p: against the same body cut there and trained alone, Holm-corrected.\n\n"
        f"{compared(result['rows'])}\n\n{gained}{elsewhere}"
        f"Training: {ways}; each exit alone, together {alone:.0f} s.\n\n{exits_figure(result)}\n\n{by(result)}"
    )


def entities(result: dict[str, Any]) -> str:
    weight = f"{result['prior_weight']:g}" + (
        f" (best on {result['weight_chosen_on']})" if result["weight_chosen_on"] else ""
    )
    name, table = Path(result["model"]).parent.name or result["model"], result["table"]
    found = f"## Entities: {name}\n\n{result['titles']:,} titles, {result['beams']} beams.\n\n"
    if result["mentions"]:
        found += (
            f"Contexts of {result['max_words']} words; candidates from {table['mentions']:,} mentions and their {table['pairs']:,} "
            f"titles, weight of the log prior {weight}. Where a mention has no candidates, all titles are searched. p: "
            "randomisation test on accuracy against “constrained”, Holm-corrected; constraint: its share of the time, "
            f"{result['batch_size']} mentions at once.\n\n"
        )
    for name, part in result["mentions"].items():
        rows = [
            {
                "way": row["way"],
                "accuracy": row["accuracy"],
                "F1": row["F1"],
                "no title": "" if row["no title"] is None else f"{row['no title']:.1%}",
                "p": "" if row["p"] is None else f"{row['p']:.4f}",
                "wins : losses": "" if row["p"] is None else f"{row['wins']} : {row['losses']}",
                "ms a mention": f"{row['ms a mention']:.1f}",
                "constraint": "" if row["constraint"] is None else f"{row['constraint']:.2%}",
            }
            for row in part["rows"]
        ]
        found += (
            f"{name}: {part['num_in_kb']:,} mentions in the knowledge base, {part['num_out_of_kb']:,} not; the right title is "
            f"among the candidates of {part['candidates_have_it']:.1%}.\n\n{render_table(rows, style='markdown', decimals=3)}\n\n"
        )
    for name, part in result["pages"].items():
        rows = [
            row
            | {
                "p": "" if row["p"] is None else f"{row['p']:.4f}",
                "MB": f"{row['MB']:,.0f}",
                "ms a query": f"{row['ms a query']:.1f}",
            }
            for row in part["rows"]
        ]
        found += (
            f"Pages by their titles, {name}: {part['num_queries']:,} questions; MB: model and index; ms: the median, one by one; "
            f"p: on {part['measure']} against written titles.\n\n{render_table(rows, style='markdown', decimals=3)}\n\n"
        )
    return found + by(result)


def links(result: dict[str, Any]) -> str:
    name, table = Path(result["model"]).parent.name or result["model"], result["table"]
    rows = [
        {
            "way": row["way"],
            **{measure: row[measure] for measure in ("F1", "precision", "recall", "macro F1")},
            "p": "" if row["p"] is None else f"{row['p']:.4f}",
            "bonus, at least": f"{row['bonus']:g}, {row['at least']:g}",
            "ms a text": f"{row['ms a text']:.0f}",
        }
        for row in result["rows"]
    ]
    return (
        f"## Links in texts: {name}\n\n{result['num_texts']:,} held-aside texts with {result['num_links']:,} links to "
        f"{result['titles']:,} titles ({result['num_links_out_of_kb']:,} more to others are left out), {result['beams']} beams. "
        f"The table has {table['mentions']:,} mentions and {table['pairs']:,} titles, and the right one for "
        f"{result['links_in_table']:.0%} of the links. At least: the share of a surface's occurrences that are links, or the "
        f"log-probability of a link; this and the bonus for a link are chosen on {result['num_dev_texts']} other texts. "
        "p: randomisation test on the texts' F1 against the dictionary, "
        f"Holm-corrected; {result['threads']} threads, load {result['load_1min']:.1f}.{result.get('note', '')}\n\n"
        f"{render_table(rows, style='markdown', decimals=3)}\n\n{by(result)}"
    )


def named(result: dict[str, Any]) -> str:
    """The collection, what rows are where they aren't triples, and whether teachers scored what they hadn't learnt."""
    lists = f", lists of {result['num_docs']}" if result.get("num_docs", 2) > 2 else ""
    held_out = ", held-out teachers" if result.get("held_out") else ""
    usual = result["setting"]["num_epochs"]
    number = result.get("num_epochs", usual)
    epochs = "" if number == usual else f", {number:g} epochs"
    factor = result.get("factor", 1.0)
    scaled = "" if factor == 1.0 else f", scores x {factor:g}"
    return f"{result['collection']}{lists}{held_out}{epochs}{scaled}{over_seeds(result)}"


def over_seeds(result: dict[str, Any]) -> str:
    return f", {len(result['seeds'])} seeds" if len(result["seeds"]) > 1 else ""


def made(result: dict[str, Any]) -> str:
    """How students were made and measured."""
    setting = result["setting"]
    seeds = f" Means over the seeds {', '.join(map(str, result['seeds']))}." if len(result["seeds"]) > 1 else ""
    held_out = (
        " Teachers that are trained score queries that they weren't trained on (two of each, each of the other half; where T1 is "
        "trained, its row is their mean)."
        if result.get("held_out")
        else ""
    )
    num_docs = result.get("num_docs", 2)
    rows = f"at most {setting['num_triples']:,} triples"
    if num_docs > 2:
        queries = f"each of at most {setting['num_triples'] // 2:,} training queries"
        rows = f"a list of {num_docs} docs for {queries} (a relevant one, others of BM25's first 30, and any)"
    num_epochs = result.get("num_epochs", setting["num_epochs"])
    return (
        f"Students: the first {result['num_layers']} layers of MiniLM, {rows}, "
        f"{num_epochs:g} epoch(s), learning rate {result['learning_rate']:g}, dropout {result['dropout']:g}, "
        f"{setting['query_length']}/{setting['doc_length']} tokens; {result['num_test_queries']} test queries.{seeds}{held_out}"
    )


def compared(rows: list[dict[str, Any]]) -> str:
    """A table of systems with their tests."""
    shown = []
    for row in rows:
        p = row["p"]
        against = "" if p is None else f"{row['wins']} : {row['losses']}"
        values = {key: row[key] for key in ("system", "nDCG@10", "RR@10", "R@100")}
        row_shown = values | {"p": "" if p is None else f"{p:.4f}", "wins : losses": against}
        if "like T1" in row:
            row_shown |= {
                "nDCG@10 of 10": row["nDCG@10 of 10"],
                "like T1": "" if row["like T1"] is None else row["like T1"],
            }
        shown.append(row_shown)
    return render_table(shown, style="markdown", decimals=3)


def by(result: dict[str, Any]) -> str:
    """The command that measured it."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    device = result.get("device", "cpu")
    where = f"{result['threads']} threads" if device == "cpu" else device
    return f"`{result['command']}` ({versions}; {where})\n"


def figure(result: dict[str, Any], latency: dict[str, Any]) -> str:
    """Quality against latency, as the paper draws it: an arrow from each student alone to the one with T2."""
    quality = {row["system"]: row["nDCG@10"] for row in result["reranked"]}
    drawing, axes = canvas()
    for row in latency["rows"]:
        name, milliseconds = row["student"], row["ms at 1000"]
        if f"{name}, T2" not in quality:
            continue
        alone, taught = quality[f"{name}, alone"], quality[f"{name}, T2"]
        axes.annotate(
            "", (milliseconds, taught), (milliseconds, alone), arrowprops={"arrowstyle": "->", "color": "grey"}
        )
        axes.plot([milliseconds], [alone], "o", color="white", markeredgecolor="black")
        axes.plot([milliseconds], [taught], "o", color="black")
        axes.annotate(name, (milliseconds, taught), xytext=(6, 0), textcoords="offset points", va="center")
    axes.axhline(quality["BM25"], color="grey", linestyle=":", linewidth=1)
    axes.annotate("BM25", (0.01, quality["BM25"]), xycoords=("axes fraction", "data"), va="bottom", color="grey")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a query, 1,000 candidates")
    axes.set_ylabel("nDCG@10, re-ranking BM25's first 100")
    return drawn(drawing, f"quality-latency-{result['name']}", "Quality against latency: hollow alone, filled with T2")


def exits_figure(result: dict[str, Any]) -> str:
    """Quality by exit, a line for each way to come to a model of so many layers."""
    ways: dict[str, list[tuple[int, float]]] = {}
    for row in result["rows"]:
        exit, way = row["system"].split(": ")
        ways.setdefault(way, []).append((int(exit), row["nDCG@10"]))
    drawing, axes = canvas()
    for way, points in ways.items():
        style = "--o" if way == "alone" else "-o" if way.startswith("multi-exit") else ":o"
        axes.plot(*zip(*points, strict=True), style, markersize=4, label=way)
    axes.set_xticks(sorted({exit for points in ways.values() for exit, _ in points}))
    axes.set_xlabel("layers that are run")
    axes.set_ylabel("nDCG@10")
    axes.legend(fontsize="small")
    return drawn(drawing, f"exits-{result['name']}", "nDCG@10 at each exit, by the way it was trained")


def canvas() -> tuple[Any, Any]:
    """A figure and its axes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rankdistill"  # the same picture is the same file
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(6.4, 4))


def drawn(drawing: Any, name: str, says: str) -> str:
    """The figure written into docs/, and what shows it there."""
    from matplotlib import pyplot

    drawing.tight_layout()
    (ROOT / "docs" / "figures").mkdir(exist_ok=True)
    drawing.savefig(ROOT / "docs" / "figures" / f"{name}.svg", metadata={"Date": None})
    pyplot.close(drawing)
    return f"![{says}](figures/{name}.svg)"


EXPERIMENTS = {
    "teachers": teachers,
    "students": students,
    "unlabelled": unlabelled,
    "losses": losses,
    "margins": margins,
    "scales": scales,
    "exits": exits,
    "entities": entities,
    "linking": links,
}
