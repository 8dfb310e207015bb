"""The nouns that every room shares; field names as in ir_measures.

`Run` and `Qrels` are plain nested dictionaries, since ir_measures, ranx and pytrec_eval all take those as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar

__all__ = [
    "Qrel",
    "Qrels",
    "Run",
    "ScoredDoc",
    "as_grade",
    "as_id",
    "as_qrels",
    "as_run",
    "as_texts",
    "by_id",
    "check_texts",
    "first_with_white_space",
    "ranked",
]

_Value = TypeVar("_Value")
# What parts columns to trec_eval; other white space (a no-break space, say) is part of an id.
_WHITE_SPACE = re.compile("[ \t-\r]")
# Relevance is a C integer to trec_eval, which also makes a table of all grades up to the greatest.
_MAX_GRADE = 1_000_000


class Qrel(NamedTuple):
    """One judgement."""

    query_id: str
    doc_id: str
    relevance: int


class ScoredDoc(NamedTuple):
    """One line of a run."""

    query_id: str
    doc_id: str
    score: float


Run: TypeAlias = dict[str, dict[str, float]]
"""query_id -> doc_id -> score. The order within a query is `ranked`'s, not the dictionary's."""

Qrels: TypeAlias = dict[str, dict[str, int]]
"""query_id -> doc_id -> relevance."""


def ranked(scores: Mapping[str, float], depth: int | None = None) -> list[tuple[str, float]]:
    """Docs of one query in rank order: score descending, then doc_id ascending (by code point).

    This is the package's one tie rule; whatever ranks, ranks with it.
    """
    order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return order if depth is None else order[:depth]


def as_id(value: object) -> str:
    """An id as a string; a whole number becomes one.

    Raises:
        ValueError: for anything else, `True` and 1.0 too.
    """
    if isinstance(value, str) and value:
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"expected an id, a string or a whole number, found {value!r}")
    return str(int(value))


def as_grade(value: Any) -> int:
    """A relevance as a whole number: 1, "1", 1.0 and "1.0" are the same.

    Raises:
        ValueError: for anything else: 0.5 isn't cut to 0.
    """
    try:
        number = float("nan" if isinstance(value, str) and "_" in value else value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not number.is_integer() or abs(number) > _MAX_GRADE:
        raise ValueError(f"expected a whole number of at most {_MAX_GRADE:,} as relevance, found {value!r}")
    return int(number)


def by_id(values: Mapping[Any, _Value]) -> Mapping[str, _Value]:
    """The mapping with `as_id`'s ids; the same object where it has them already.

    Raises:
        ValueError: for what is no mapping, for no id, or an id that is there as a string and as a number.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"expected a mapping by id, found {values!r:.80}")
    if set(map(type, values)) <= {str}:
        return values
    result = dict[str, _Value]()
    for id_, value in values.items():
        if (name := as_id(id_)) in result:
            raise ValueError(f"expected distinct ids, found {name!r} as a string and as a number")
        result[name] = value
    return result


def as_run(run: Mapping[Any, Mapping[Any, Any]]) -> Run:
    """A run that somebody made in Python, with `as_id`'s ids and scores that are floats; what is right already isn't copied.

    Raises:
        ValueError: for what is no id, or no number as a score.
    """
    return {
        query_id: scores if _is_plain(scores) else _converted(query_id, scores, _as_score)
        for query_id, scores in by_id(run).items()
    }


def as_qrels(qrels: Mapping[Any, Mapping[Any, Any]]) -> Qrels:
    """Judgements that somebody made in Python, with `as_id`'s ids and `as_grade`'s grades.

    Raises:
        ValueError: for what is no id, or no grade.
    """
    return {query_id: _converted(query_id, grades, as_grade) for query_id, grades in by_id(qrels).items()}


def as_texts(texts: Mapping[Any, Any], *, any_ids: bool = False) -> Mapping[str, str]:
    """Texts that somebody made in Python, with `as_id`'s ids; the same object where it has them already.

    Args:
        any_ids: ids may have white space, or no character.

    Raises:
        ValueError: for what is no id, an id with white space, or what `check_texts` refuses.
    """
    result = by_id(texts)
    ids = list(result)
    row = None if any_ids else ids.index("") if "" in result else first_with_white_space(ids)
    if row is not None:
        raise ValueError(f"expected ids of at least one character and without white space, found {ids[row]!r}")
    check_texts(ids)
    check_texts(result.values(), ids)
    return result


def check_texts(texts: Iterable[Any], ids: Sequence[str] | None = None) -> None:
    """Raises ValueError for the first that is no text: None, NaN, or with half of a surrogate pair, which UTF-8 can't hold."""
    for row, text in enumerate(texts):
        if isinstance(text, str) and (text.isascii() or _is_whole(text)):
            continue
        name = f"number {row}" if ids is None else f"of {ids[row]!r}"
        found = "one with half of a surrogate pair" if isinstance(text, str) else "something else"
        raise ValueError(f"expected a string as the text {name}, found {found}: {text!r:.80}")


def first_with_white_space(ids: Sequence[str]) -> int | None:
    """Which id has white space in it (that of ASCII, by which TREC files part columns); None if none has."""
    if _WHITE_SPACE.search("".join(ids)) is None:
        return None
    return next(row for row, id_ in enumerate(ids) if _WHITE_SPACE.search(id_))


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_score(value: object) -> float:
    if not isinstance(value, Real):
        raise ValueError(f"expected a number as score, found {value!r}")
    return float(value)


def _is_plain(scores: object) -> TypeGuard[dict[str, float]]:
    return type(scores) is dict and set(map(type, scores)) <= {str} and set(map(type, scores.values())) <= {float}


def _converted(query_id: str, values: Mapping[Any, Any], convert: Callable[[Any], _Value]) -> dict[str, _Value]:
    """The values of a query by document."""
    result = dict[str, _Value]()
    for doc_id, value in by_id(values).items():
        try:
            result[doc_id] = convert(value)
        except ValueError as error:
            raise ValueError(f"query {query_id!r}, document {doc_id!r}: {error}") from None
    return result
