"""rankdistill: distils big rankers into small, fast ones and proves it on real data.

The names below are found on first use, so that `import rankdistill` brings neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rankdistill._core import __version__

if TYPE_CHECKING:
    from rankdistill.data.scores import ScoreStore, open_scores
    from rankdistill.evaluation.entities import evaluate_entities, evaluate_pages
    from rankdistill.evaluation.linking import linking_scores
    from rankdistill.evaluation.measures import Evaluation, evaluate
    from rankdistill.evaluation.significance import compare
    from rankdistill.formats.collection import Collection, collection_from_texts, open_collection
    from rankdistill.formats.kilt import read_kilt, write_kilt
    from rankdistill.formats.linked_texts import read_linked_texts, write_linked_texts
    from rankdistill.formats.mentions import MentionTable, build_mentions
    from rankdistill.formats.scores import read_scores
    from rankdistill.formats.trec import read_qrels, read_run, write_qrels, write_run
    from rankdistill.generation.constraint import TrieConstraint
    from rankdistill.generation.decoding import EntityScore, generate_entities, merge_names, score_candidates
    from rankdistill.generation.disambiguation import disambiguate, mention_of
    from rankdistill.generation.linking import LinkedMention, link_entities
    from rankdistill.generation.pages import retrieve_entities
    from rankdistill.generation.trie import TokenTrie
    from rankdistill.models.colbert import ColbertModel
    from rankdistill.models.cross_encoder import CrossEncoderModel
    from rankdistill.models.dot import DotModel
    from rankdistill.models.loading import load_model as load
    from rankdistill.models.multi_exit import MultiExitEncoder
    from rankdistill.models.multi_exit_colbert import MultiExitColbert
    from rankdistill.models.multi_exit_cross_encoder import MultiExitCrossEncoder
    from rankdistill.models.prett import PrettModel
    from rankdistill.models.seq2seq import Seq2SeqModel
    from rankdistill.models.splade import SpladeModel
    from rankdistill.models.tk import TKModel
    from rankdistill.options.pretraining import PretrainOptions
    from rankdistill.options.training import GenreOptions, MarginMSEOptions, Stage, TeacherOptions
    from rankdistill.records import Qrels, Run
    from rankdistill.retrieval.bm25 import BM25
    from rankdistill.retrieval.encode import encode_exits, encode_texts
    from rankdistill.retrieval.exits import build_exit_indexes, search_adaptively
    from rankdistill.retrieval.index import FlatIndex, SparseIndex, TokenIndex, build_index
    from rankdistill.retrieval.rerank import rerank
    from rankdistill.retrieval.search import search
    from rankdistill.training.genre import train_genre
    from rankdistill.training.margin_mse import train_margin_mse
    from rankdistill.training.pretrain import pretrain
    from rankdistill.training.stages import run_stages
    from rankdistill.training.teacher import train_teacher

__all__ = [
    "BM25",
    "ColbertModel",
    "Collection",
    "CrossEncoderModel",
    "DotModel",
    "EntityScore",
    "Evaluation",
    "FlatIndex",
    "GenreOptions",
    "LinkedMention",
    "MarginMSEOptions",
    "MentionTable",
    "MultiExitColbert",
    "MultiExitCrossEncoder",
    "MultiExitEncoder",
    "PretrainOptions",
    "PrettModel",
    "Qrels",
    "Run",
    "ScoreStore",
    "Seq2SeqModel",
    "SparseIndex",
    "SpladeModel",
    "Stage",
    "TKModel",
    "TeacherOptions",
    "TokenIndex",
    "TokenTrie",
    "TrieConstraint",
    "__version__",
    "build_exit_indexes",
    "build_index",
    "build_mentions",
    "collection_from_texts",
    "compare",
    "disambiguate",
    "encode_exits",
    "encode_texts",
    "evaluate",
    "evaluate_entities",
    "evaluate_pages",
    "generate_entities",
    "link_entities",
    "linking_scores",
    "load",
    "mention_of",
    "merge_names",
    "open_collection",
    "open_scores",
    "pretrain",
    "read_kilt",
    "read_linked_texts",
    "read_qrels",
    "read_run",
    "read_scores",
    "rerank",
    "retrieve_entities",
    "run_stages",
    "score_candidates",
    "search",
    "search_adaptively",
    "train_genre",
    "train_margin_mse",
    "train_teacher",
    "write_kilt",
    "write_linked_texts",
    "write_qrels",
    "write_run",
]

_HOME = {
    "data.scores": ("ScoreStore", "open_scores"),
    "evaluation.entities": ("evaluate_entities", "evaluate_pages"),
    "evaluation.linking": ("linking_scores",),
    "evaluation.measures": ("Evaluation", "evaluate"),
    "evaluation.significance": ("compare",),
    "formats.collection": ("Collection", "collection_from_texts", "open_collection"),
    "formats.kilt": ("read_kilt", "write_kilt"),
    "formats.mentions": ("MentionTable", "build_mentions"),
    "formats.linked_texts": ("read_linked_texts", "write_linked_texts"),
    "formats.scores": ("read_scores",),
    "formats.trec": ("read_qrels", "read_run", "write_qrels", "write_run"),
    "models.colbert": ("ColbertModel",),
    "generation.constraint": ("TrieConstraint",),
    "generation.decoding": ("EntityScore", "generate_entities", "merge_names", "score_candidates"),
    "generation.disambiguation": ("disambiguate", "mention_of"),
    "generation.pages": ("retrieve_entities",),
    "generation.linking": ("LinkedMention", "link_entities"),
    "generation.trie": ("TokenTrie",),
    "models.cross_encoder": ("CrossEncoderModel",),
    "models.dot": ("DotModel",),
    "models.loading": ("load",),
    "models.multi_exit": ("MultiExitEncoder",),
    "models.multi_exit_colbert": ("MultiExitColbert",),
    "models.multi_exit_cross_encoder": ("MultiExitCrossEncoder",),
    "models.prett": ("PrettModel",),
    "models.seq2seq": ("Seq2SeqModel",),
    "models.splade": ("SpladeModel",),
    "models.tk": ("TKModel",),
    "options.pretraining": ("PretrainOptions",),
    "options.training": ("GenreOptions", "MarginMSEOptions", "Stage", "TeacherOptions"),
    "records": ("Qrels", "Run"),
    "retrieval.bm25": ("BM25",),
    "retrieval.encode": ("encode_exits", "encode_texts"),
    "retrieval.exits": ("build_exit_indexes", "search_adaptively"),
    "retrieval.index": ("FlatIndex", "SparseIndex", "TokenIndex", "build_index"),
    "retrieval.rerank": ("rerank",),
    "retrieval.search": ("search",),
    "training.genre": ("train_genre",),
    "training.margin_mse": ("train_margin_mse",),
    "training.pretrain": ("pretrain",),
    "training.stages": ("run_stages",),
    "training.teacher": ("train_teacher",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_RENAMED = {"load": "load_model"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rankdistill' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rankdistill.{_MODULE_OF[name]}"), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
