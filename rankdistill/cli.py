"""The command `rankdistill`: parse, build, call, print. Heavy imports are inside each command."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.config import Toml

from rankdistill import __version__
from rankdistill.errors import RankDistillError
from rankdistill.formats.terminal import say
from rankdistill.options.entities import (
    EntitiesDisambiguateOptions,
    EntitiesMentionsOptions,
    EntitiesRetrieveOptions,
    EntitiesScoreOptions,
    EntitiesWatchOptions,
)
from rankdistill.options.linking import EntitiesLinkOptions
from rankdistill.options.pretraining import PretrainOptions
from rankdistill.options.retrieval import (
    EncodeOptions,
    EvaluateOptions,
    ExitsOptions,
    IndexOptions,
    RerankOptions,
    SearchOptions,
    TruncateOptions,
)
from rankdistill.options.scores import (
    ScoresCleanOptions,
    ScoresCompileOptions,
    ScoresConvertOptions,
    ScoresInspectOptions,
    ScoresMergeOptions,
)
from rankdistill.options.scoring import JoinOptions, ScoreOptions, TriplesOptions
from rankdistill.options.training import GenreOptions, MarginMSEOptions, Stages, TeacherOptions
from rankdistill.options.trie import TrieBuildOptions, TrieInfoOptions, TrieQueryOptions

__all__ = ["app", "main"]

app = App(
    name="rankdistill",
    version=__version__,
    help="Distils big rankers into small, fast ones, and measures them.\n\n"
    "The street: teacher score file -> student -> index -> run -> measures.\n"
    "Options may also stand in a TOML file (--config FILE), in a table named as the command: [train.margin-mse].",
    default_parameter=Parameter(negative_iterable=(), consume_multiple=True),
)
scores = App(name="scores", help="Look at teacher score files; merge, clean, convert and compile them.")
train = App(
    name="train",
    help="Train a teacher, or a student from a teacher's scores; pre-train the encoder that a student starts from.",
)
trie = App(name="trie", help="Tries of titles, which hold a decoder to them.")
entities = App(name="entities", help="Entities that a model writes: of mentions, of queries, and in texts.")
app.command(scores)
app.command(train)
app.command(trie)
app.command(entities)

_Flat = Parameter(name="*")


@scores.command(name="inspect")
def scores_inspect(options: Annotated[ScoresInspectOptions, _Flat]) -> None:
    """Show what a teacher score file holds: rows, ids, margins, bad rows, and what to mind."""
    from rankdistill.data.scores_report import inspect_scores

    report = inspect_scores(options)
    say(report.to_json() if options.json else report.render())


@scores.command(name="compile")
def scores_compile(options: Annotated[ScoresCompileOptions, _Flat]) -> None:
    """Compile teacher score files into one memory-mapped store (training does so by itself on first use)."""
    from rankdistill.data.scores import run_compile

    say(run_compile(options))


@scores.command(name="merge")
def scores_merge(options: Annotated[ScoresMergeOptions, _Flat]) -> None:
    """Average several teachers' score files, whose rows may be in any order, into one: an ensemble teacher.

    Scores are averaged by (query, doc) pair, outside of memory; temporary files lie beside the output. Teachers on other scales
    (logits, cosines, sigmoids) want --normalize. What is missing, unused or contradictory is counted and printed.

    Example: rankdistill scores merge base.tsv large.tsv albert.tsv.gz -o t2.tsv.gz --on-missing-pair drop
    """
    from rankdistill.data.scores_merge import run_merge

    say(run_merge(options))


@scores.command(name="clean")
def scores_clean(options: Annotated[ScoresCleanOptions, _Flat]) -> None:
    """Leave out likely false negatives and extreme margins, and clip scores; only what is asked for.

    Prints how the margins spread before and after, and what was left out.

    Example: rankdistill scores clean scores.tsv -o clean.tsv --drop-false-negatives 3
    """
    from rankdistill.data.scores_clean import run_clean

    say(run_clean(options))


@scores.command(name="convert")
def scores_convert(options: Annotated[ScoresConvertOptions, _Flat]) -> None:
    """Write teacher scores in another published format: ours, or those of sentence-transformers and PyLate.

    What would have to be invented is refused: pair scores out of margins, ids out of texts.

    Example: rankdistill scores convert scores.tsv -o train.parquet --to pylate --num-docs 32
    """
    from rankdistill.data.scores_convert import run_convert

    say(run_convert(options))


@app.command
def join(options: Annotated[JoinOptions, _Flat]) -> None:
    """Write several collections as one, to train on their tasks side by side.

    Example: rankdistill join text=conala code=codetrans-java-cs -o both --balance train
    """
    from rankdistill.formats.join import run_join

    say(run_join(options))


@app.command
def triples(options: Annotated[TriplesOptions, _Flat]) -> None:
    """Make training triples out of judgements: negatives are drawn from BM25's ranking or a run."""
    from rankdistill.retrieval.mine import make_triples

    say(f"{len(make_triples(options)):,} triples written to {options.output}")


@app.command
def score(options: Annotated[ScoreOptions, _Flat]) -> None:
    """Let a teacher score triples or candidates, each pair once; an interrupted run goes on where it was."""
    from rankdistill.retrieval.score import score_file

    counts = score_file(options)
    say(f"{counts['rows']:,} rows ({counts['pairs']:,} distinct pairs) written to {options.output}")
    if counts["queries_left_out"]:
        say(f"{counts['queries_left_out']:,} queries had fewer than {options.depth} candidates and were left out")


@train.command(name="genre")
def train_genre(options: Annotated[GenreOptions, _Flat]) -> None:
    """Train an encoder-decoder to write names of entities, from KILT files.

    Example: rankdistill train genre --files mentions.jsonl.gz --init MODEL --decoder-layers 2 --output-dir runs/genre
    """
    from rankdistill.training.genre import train_genre

    say(f"model written to {train_genre(options)}")


@train.command(name="teacher")
def train_teacher(options: Annotated[TeacherOptions, _Flat]) -> None:
    """Train a cross-encoder teacher on labels."""
    from rankdistill.training.teacher import train_teacher

    say(f"teacher written to {train_teacher(options)}")


@train.command(name="margin-mse")
def train_margin_mse(options: Annotated[MarginMSEOptions, _Flat], stages: Stages = ()) -> None:
    """Train a student from teacher score files."""
    from rankdistill.training.stages import run_stages

    say(f"student written to {run_stages(options, stages)}")


@train.command(name="pretrain")
def train_pretrain(options: Annotated[PretrainOptions, _Flat]) -> None:
    """Pre-train an encoder with exits on repositories of source text, for a student to start from.

    Example: rankdistill train pretrain --corpus .venv/lib/python3.11/site-packages --init MODEL --output-dir runs/pretrain
    """
    from rankdistill.training.pretrain import pretrain

    say(f"encoder written to {pretrain(options)}")


@trie.command(name="build")
def trie_build(options: Annotated[TrieBuildOptions, _Flat]) -> None:
    """Build the trie of a file of titles, in a model's tokens."""
    from rankdistill.generation.commands import run_build

    say(run_build(options))


@trie.command(name="info")
def trie_info(options: Annotated[TrieInfoOptions, _Flat]) -> None:
    """Show what a trie holds."""
    from rankdistill.generation.commands import run_info

    say(run_info(options))


@trie.command(name="query")
def trie_query(options: Annotated[TrieQueryOptions, _Flat]) -> None:
    """Show what a trie allows after a prefix, and which titles begin so."""
    from rankdistill.generation.commands import run_query

    say(run_query(options))


@entities.command(name="mentions")
def entities_mentions(options: Annotated[EntitiesMentionsOptions, _Flat]) -> None:
    """Count which titles mentions link to, in linked text, KILT files or tables of anchors.

    Example: rankdistill entities mentions paragraphs.jsonl.gz anchors.tsv.gz -o mentions.tsv.gz
    """
    from rankdistill.generation.entity_commands import run_mentions

    say(run_mentions(options))


@entities.command(name="disambiguate")
def entities_disambiguate(options: Annotated[EntitiesDisambiguateOptions, _Flat]) -> None:
    """Say which entities the mentions of KILT files mean.

    Example: rankdistill entities disambiguate MODEL --trie titles.rdtrie --files dev.jsonl --mentions mentions.tsv.gz
    --mode candidates -o dev.predicted.jsonl
    """
    from rankdistill.generation.entity_commands import run_disambiguate

    say(run_disambiguate(options))


@entities.command(name="retrieve")
def entities_retrieve(options: Annotated[EntitiesRetrieveOptions, _Flat]) -> None:
    """Find pages of queries by writing their titles, as a TREC run.

    Example: rankdistill entities retrieve MODEL --trie titles.rdtrie --queries questions.jsonl -o questions.run
    """
    from rankdistill.generation.entity_commands import run_retrieve

    say(run_retrieve(options))


@entities.command(name="score")
def entities_score(options: Annotated[EntitiesScoreOptions, _Flat]) -> None:
    """Measure predicted titles: InKB micro F1 of answers, KILT's R-precision and recall of pages, InKB F1 of links in texts.

    Example: rankdistill entities score dev.predicted.jsonl --gold dev.jsonl --trie titles.rdtrie --tokenizer MODEL
    """
    from rankdistill.generation.entity_scores import run_score

    say(run_score(options))


@entities.command(name="watch")
def entities_watch(options: Annotated[EntitiesWatchOptions, _Flat]) -> None:
    """Watch beams under the constraint of a trie, step by step.

    Example: rankdistill entities watch MODEL "[START_ENT] Einstein [END_ENT] wrote letters." --trie titles.rdtrie
    """
    from rankdistill.generation.entity_commands import run_watch

    waits = not options.all and sys.stdin.isatty() and sys.stdout.isatty()
    for number, page in enumerate(run_watch(options)):
        if waits and number:
            input()
        say(page if number == 0 or waits else f"\n{page}", styled=True)


@entities.command(name="link")
def entities_link(options: Annotated[EntitiesLinkOptions, _Flat]) -> None:
    """Find mentions of entities in texts, and the entities; JSON lines out, or marked text at a terminal.

    Example: echo "Einstein received a prize." | rankdistill entities link runs/genre/model --trie titles.rdtrie
    """
    from rankdistill.generation.link_commands import run_link

    if said := run_link(options):
        say(said)


@app.command
def encode(options: Annotated[EncodeOptions, _Flat]) -> None:
    """Encode a collection's documents; an interrupted run goes on where it was."""
    from rankdistill.retrieval.commands import run_encode

    run_encode(options)


@app.command
def index(options: Annotated[IndexOptions, _Flat]) -> None:
    """Build a FAISS index over encoded documents."""
    from rankdistill.retrieval.commands import run_index

    run_index(options)


@app.command
def search(options: Annotated[SearchOptions, _Flat]) -> None:
    """Search an index with a collection's queries (or by BM25), and write a TREC run."""
    from rankdistill.retrieval.commands import run_search

    run_search(options)


@app.command
def rerank(options: Annotated[RerankOptions, _Flat]) -> None:
    """Re-rank a TREC run by a student or a teacher."""
    from rankdistill.retrieval.commands import run_rerank

    run_rerank(options)


@app.command
def truncate(options: Annotated[TruncateOptions, _Flat]) -> None:
    """Write one exit of a model that has several as a smaller model by itself.

    Example: rankdistill truncate --model runs/exits/model --exit 2 --output runs/exits/two-layers
    """
    from rankdistill.retrieval.commands import run_truncate

    run_truncate(options)


@app.command
def exits(options: Annotated[ExitsOptions, _Flat]) -> None:
    """Measure every exit of a model in one pass: quality, speed, operations and bytes; and stopping where a query is sure.

    Example: rankdistill exits --model runs/exits/model --collection data/conala --plot exits.svg
    """
    from rankdistill.retrieval.exit_report import run_exits

    say(run_exits(options))


@app.command
def evaluate(options: Annotated[EvaluateOptions, _Flat]) -> None:
    """Measure runs against judgements, with significance."""
    from rankdistill.evaluation.commands import run_evaluate

    run_evaluate(options)


_format_other = warnings.formatwarning


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours in one line, as errors are; others as Python shows them."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"rankdistill: warning: {message}\n"
    return _format_other(message, category, filename, lineno, line)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Errors that a person can mend are one line; set RANKDISTILL_TRACEBACK=1 to see where they came from."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = _warning
    if "--config" in arguments[:-1]:
        at = arguments.index("--config")
        app.config = (Toml(Path(arguments[at + 1]), must_exist=True),)
        del arguments[at : at + 2]
    try:
        app(arguments)
    except (RankDistillError, ValueError, OSError) as error:
        if os.environ.get("RANKDISTILL_TRACEBACK"):
            raise
        say(f"rankdistill: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("rankdistill: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
