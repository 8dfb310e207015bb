"""Options of `entities mentions`, `disambiguate`, `retrieve`, `score` and `watch`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rankdistill.options import Output

__all__ = [
    "EntitiesDisambiguateOptions",
    "EntitiesMentionsOptions",
    "EntitiesRetrieveOptions",
    "EntitiesScoreOptions",
    "EntitiesWatchOptions",
]


@dataclass(frozen=True)
class _LinkFiles:  # not keyword-only, so that the command line takes them without a flag
    files: tuple[Path, ...]
    """Linked text ({"id", "text", "mentions": [{"start", "end", "title"}]} a line), KILT files with mentions, or tables of mention,
    title and count with tabs between; plain or .gz."""


@dataclass(frozen=True, kw_only=True)
class EntitiesMentionsOptions(_LinkFiles):
    """Links to a table of mentions: which titles each means, and how often."""

    output: Output
    """The table to write: mention, title and count a line, with tabs between; gzip if it ends in .gz."""

    min_count: int = 1
    """Leave out pairs of a mention and a title that occur less often."""

    max_candidates: int | None = None
    """Titles of a mention, the most frequent first; all by default."""

    trie: Path | None = None
    """Keep only titles that are in this trie."""

    tokenizer: str | None = None
    """The model whose tokens the trie is of: a folder, or an id on the hub."""


@dataclass(frozen=True)
class _Model:
    model: str
    """An encoder-decoder that writes titles: a folder, or an id on the hub."""


@dataclass(frozen=True, kw_only=True)
class _Decoding:
    trie: Path
    """The titles that may be written (trie build)."""

    titles: Path | None = None
    """The file that the trie was built of: entities are called as it calls them first. A tokenizer that isn't true to case
    needs it."""

    num_beams: int = 10
    """Titles' beginnings that are followed at once."""

    length_penalty: float = 1.0
    """Scores are log-probability / length^this; 0 for plain log-probabilities."""

    max_words: int = 384
    """Words around a mention that are read, half of them on each side; what the model was trained with."""

    device: str = "auto"
    """Where the model runs: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps"."""

    dtype: Literal["auto", "float32", "bfloat16", "fast"] = "auto"
    """Of the model's weights: auto is float32; fast is bfloat16 where that is measured to be faster, which takes about half of the
    time, and moves scores by about a hundredth."""

    batch_size: int = 8
    """Texts at once."""


@dataclass(frozen=True, kw_only=True)
class EntitiesDisambiguateOptions(_Decoding, _Model):
    """Mentions of KILT files to entities."""

    files: tuple[Path, ...]
    """KILT files of mentions in their contexts, plain or .gz."""

    output: Output
    """The KILT file to write: of each record the best title as its answer, and all with scores as its pages."""

    mode: Literal["beams", "candidate-beams", "candidates", "free", "prior"] = "beams"
    """beams: search among all titles. candidate-beams: search among the mention's candidates. candidates: exact scores of those.
    free: write without a constraint (how many are no titles is counted). prior: the likeliest candidate, without a model."""

    mentions: Path | None = None
    """Table of mentions that gives candidates (entities mentions); without it they are the records' own."""

    num_candidates: int | None = 100
    """Candidates of the table, the likeliest first."""

    prior_weight: float = 0.0
    """Adds so many times log P(title | mention) to the scores of candidates."""

    without_candidates: Literal["beams", "nothing"] = "beams"
    """Where a mention has no candidate in the trie: search among all titles, or answer nothing."""

    num_results: int = 10
    """Titles that are written of each record."""


@dataclass(frozen=True, kw_only=True)
class EntitiesRetrieveOptions(_Decoding, _Model):
    """Queries to the pages whose titles a model writes."""

    queries: Path
    """A KILT file, BEIR's queries.jsonl, or lines of an id, a tab and a text; plain or .gz."""

    output: Output
    """The TREC run to write; gzip if it ends in .gz."""

    k: int = 10
    """Pages a query. No more are found than --num-beams, which is raised to it."""

    doc_ids: Literal["title", "id"] = "title"
    """What the run calls a page: its title with underscores for spaces, or the id of its entity in the trie."""

    aliases: Literal["best", "sum"] = "best"
    """The score of an entity of several names: that of the best one, or the log of the sum of the exponentials."""


@dataclass(frozen=True)
class _Predictions:
    predictions: tuple[Path, ...]
    """KILT files that entities disambiguate wrote, TREC runs whose doc ids are titles, or linked texts that entities link wrote;
    plain or .gz."""


@dataclass(frozen=True, kw_only=True)
class EntitiesScoreOptions(_Predictions):
    """Measures answers and rankings of pages against a KILT file, or links against linked texts; with several files of
    predictions, tests which differ from the first."""

    gold: Path
    """The KILT file, or the linked texts, with the right titles."""

    trie: Path | None = None
    """The knowledge base: mentions whose titles aren't in it are left out of accuracy and of links' measures, and names of one
    entity count as one. All titles are known without it."""

    tokenizer: str | None = None
    """The model whose tokens the trie is of: a folder, or an id on the hub."""

    ks: tuple[int, ...] = (1, 5, 10)
    """For recall@k by evidence set."""

    test: Literal["t", "randomisation"] = "randomisation"
    """The paired test: Student's t, or Fisher's randomisation test with 10,000 sign patterns; Holm-corrected."""

    json: Path | None = None
    """Write means, counts and comparisons to this JSON file."""


@dataclass(frozen=True)
class _ModelAndText(_Model):
    text: str
    """What the model reads; a mention stands between [START_ENT] and [END_ENT]."""


@dataclass(frozen=True, kw_only=True)
class EntitiesWatchOptions(_ModelAndText):
    """Shows how beams fare under the constraint, step by step."""

    trie: Path
    """The titles that may be written (trie build)."""

    allowed: tuple[str, ...] = ()
    """Only these titles of the trie."""

    num_beams: int = 5
    """Titles' beginnings that are followed at once."""

    length_penalty: float = 1.0
    """Titles are ranked by log-probability / length^this."""

    all: bool = False
    """All steps at once; by default the next one comes with Enter, if somebody sits at the terminal."""

    device: str = "auto"
    """Where the model runs: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps"."""
