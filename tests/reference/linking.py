"""Linking, slowly: all outputs of a text written down one by one, a search token by token, and measures by counting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rankdistill.generation.link_automaton import Marks

Titles = dict[tuple[int, int], list[tuple[int, ...]]]
"""Of each run (start, end) that may be a mention, its titles, without an end."""
NextTokens = Callable[[tuple[int, ...]], Sequence[float]]


class Output(NamedTuple):
    """Tokens of a whole output, and its mentions: (start, end, title)."""

    tokens: tuple[int, ...]
    links: tuple[tuple[int, int, tuple[int, ...]], ...]


def all_outputs(text: Sequence[int], titles: Titles, marks: Marks, eos: int, place: int = 0) -> Iterator[Output]:
    """Every output behind a place of the text."""
    if place == len(text):
        yield Output((eos,), ())
        return
    for rest in all_outputs(text, titles, marks, eos, place + 1):
        yield Output((text[place], *rest.tokens), rest.links)
    for (start, end), own in titles.items():
        for title in own if start == place else ():
            for rest in all_outputs(text, titles, marks, eos, end):
                written = (marks.open, *text[start:end], marks.close, marks.begin, *title, marks.end)
                yield Output((*written, *rest.tokens), ((start, end, title), *rest.links))


def log_prob(next_tokens: NextTokens, tokens: Sequence[int]) -> float:
    """The sum over tokens, each computed alone."""
    return sum(next_tokens(tuple(tokens[:at]))[token] for at, token in enumerate(tokens))


class Beam(NamedTuple):
    """What has been written, its log-probability, and its mentions."""

    tokens: tuple[int, ...]
    total: float
    links: tuple[tuple[int, int, tuple[int, ...]], ...]


def plain_search(
    next_tokens: NextTokens,
    text: Sequence[int],
    titles: Titles,
    marks: Marks,
    eos: int,
    num_beams: int,
    max_gap: float,
    room: float = math.inf,
    bonus: float = 0.0,
) -> list[Beam]:
    """The search of `link_search`, by its rules, with nothing kept or foreseen; totals have the bonuses."""

    def after(beam: Beam, tokens: Sequence[int]) -> Beam:
        total = beam.total
        for at, token in enumerate(tokens):
            total += next_tokens((*beam.tokens, *tokens[:at]))[token]
        return Beam((*beam.tokens, *tokens), total, beam.links)

    def best(beams: list[Beam]) -> list[Beam]:
        ranked = sorted((beam for beam in beams if beam.total > -math.inf), key=lambda beam: -beam.total)[:num_beams]
        return [beam for beam in ranked if beam.total >= ranked[0].total - max_gap]

    def least(ways: list[float]) -> float:
        ranked = sorted(ways, reverse=True)[:num_beams]
        return max(ranked[-1], ranked[0] - max_gap)

    def longest_title(beam: Beam, start: int) -> float:
        return room - len(beam.tokens) - (len(text) - start) - 4

    def is_reached(beam: Beam, start: int, end: int) -> bool:
        """Whether copying to the mention's end, and ending it there, are among the best ways on at each place."""
        for place in range(start + 1, end + 1):
            inner = after(beam, (marks.open, *text[start:place]))
            ways = dict[str, float]()
            if any(first == start and last > place for first, last in titles):
                ways["copy"] = after(inner, text[place : place + 1]).total
            if (start, place) in titles:
                ways["close"] = after(inner, (marks.close,)).total
            if ways["close" if place == end else "copy"] < least(list(ways.values())):
                return False
        return True

    def linked(beam: Beam, start: int, end: int, floor: float) -> list[Beam]:
        longest = longest_title(beam, start)
        root = after(beam, (marks.open, *text[start:end], marks.close, marks.begin))
        root = root._replace(total=root.total + bonus)
        is_live = root.total >= floor and is_reached(beam, start, end)
        live, found = ([((), root)] if is_live else []), list[tuple[tuple[int, ...], Beam]]()
        while live:
            # What may follow: a title's own next token, or its end.
            ways = dict[tuple[tuple[int, ...], bool], Beam]()
            for title, own in live:
                for each in titles[start, end]:
                    if each[: len(title)] == title:
                        is_end = len(each) == len(title)
                        token = marks.end if is_end else each[len(title)]
                        ways[(*title, *(() if is_end else (token,))), is_end] = after(own, (token,))
            ranked = sorted(ways.items(), key=lambda way: -way[1].total)[: 2 * num_beams]
            totals = sorted((own.total for _, own in found), reverse=True)
            worst = totals[num_beams - 1] if len(totals) >= num_beams else -math.inf
            ranked = [way for way in ranked if way[1].total >= max(floor, worst) and way[1].total > -math.inf]
            found += [(title, own) for (title, is_end), own in ranked[:num_beams] if is_end]
            live = [(title, own) for (title, is_end), own in ranked if not is_end and len(title) <= longest][:num_beams]
        return [Beam(own.tokens, own.total, (*beam.links, (start, end, title))) for title, own in found]

    landed: list[list[Beam]] = [[] for _ in range(len(text) + 1)]
    landed[0].append(Beam((), 0.0, ()))
    for place in range(len(text)):
        beams = best(landed[place])
        copied = [after(beam, text[place : place + 1]).total for beam in beams]
        begun = [
            after(beam, (marks.open,)).total + bonus if longest_title(beam, place) >= 1 else -math.inf for beam in beams
        ]
        lowest = max(least(copied + begun), -1e300) if beams else 0.0
        opened = [beam for beam, total in zip(beams, begun, strict=True) if total >= lowest]
        for end in sorted(end for start, end in titles if start == place):
            there = sorted((after(beam, text[place:end]).total for beam in beams), reverse=True)
            worst = there[num_beams - 1] if len(there) >= num_beams else -math.inf
            floor = max([worst, *(total - max_gap for total in there[:1])])
            for beam in opened:
                landed[end] += linked(beam, place, end, floor)
        landed[place + 1] = [after(beam, text[place : place + 1]) for beam in beams] + landed[place + 1]
    ended = [after(beam, (eos,)) for beam in best(landed[len(text)])]
    return sorted(ended, key=lambda beam: -beam.total)


def counted_f1(gold: Sequence[set[object]], found: Sequence[set[object]]) -> tuple[float, float, float]:
    """Precision, recall and F1 over all texts, by counting one by one."""
    right = sum(1 for own, theirs in zip(gold, found, strict=True) for link in theirs if link in own)
    num_found, num_gold = sum(map(len, found)), sum(map(len, gold))
    precision = right / num_found if num_found else 0.0
    recall = right / num_gold if num_gold else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0
