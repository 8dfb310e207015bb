"""Beams under the constraint as text, step by step: what each has written, what it may go on with, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from rankdistill.formats.tokenizers import encode_texts
from rankdistill.generation.beam import BeamStep, Hypothesis, beam_search
from rankdistill.generation.decoding import decoder_prefix, source_limit
from rankdistill.generation.tree import plant
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.precision import inference_mode

__all__ = ["observed_search", "render_search"]

_BAR = 10


def observed_search(
    model: Any,
    tokenizer: Any,
    trie: TokenTrie,
    text: str,
    *,
    num_beams: int = 5,
    length_penalty: float = 1.0,
    max_input_length: int | None = None,
) -> tuple[list[BeamStep], list[Hypothesis]]:
    """The steps of a search for the titles of one text, and what it found, the best first.

    Args:
        trie: all titles, or an allow-list of them.
        num_beams: as for `generate_entities`, which finds the same; so for the rest.
    """
    steps = list[BeamStep]()
    input_ids = torch.tensor(
        encode_texts(tokenizer, [text], source_limit(model, tokenizer, max_input_length)), device=model.device
    )
    with inference_mode(model, "auto"):
        found = beam_search(
            plant(model, input_ids, torch.ones_like(input_ids)),
            trie,
            1,
            prefix=decoder_prefix(model),
            num_beams=num_beams,
            num_results=num_beams,
            length_penalty=length_penalty,
            observe=steps.append,
        )
    return steps, found[0][:num_beams]


def render_search(
    steps: Sequence[BeamStep],
    found: Sequence[Hypothesis],
    tokenizer: Any,
    *,
    length_penalty: float = 1.0,
    style: Callable[[str, str], str] = lambda text, style: text,
) -> Iterator[str]:
    """A page for each step, and a last one with what was found.

    Args:
        steps, found: of `observed_search`.
        style: (text, "bold", "dim" or "found") -> how the terminal shows it; plain without it.
    """
    num_decoded = 0
    for step in steps:
        # A token that was forced went along with the one before it.
        num_decoded += not bool(step.jumped.all()) if step.length else 1
        order = sorted(range(len(step.text)), key=lambda row: -step.log_probs[row])
        head = f"{step.length} token{'' if step.length == 1 else 's'} written, {_count(len(order), 'beam')}"
        lines = [style(head, "bold")]
        widest = max(len(_written(tokenizer, path)) for path in step.paths)
        for row in order:
            share = float(min(step.legal_mass[row], 1.0))
            bar = "█" * round(_BAR * share) + "·" * (_BAR - round(_BAR * share))
            ways = "goes on in one way" if step.num_legal[row] == 1 else f"goes on in {step.num_legal[row]:,} ways"
            jumped = ", computed along with the token before it" if step.jumped[row] else ""
            written = _written(tokenizer, step.paths[row]).ljust(widest)
            lines.append(
                f"  {step.log_probs[row]:8.3f}  {written}  {bar} {share:7.2%} legal, {ways}{style(jumped, 'dim')}"
            )
        for _, hypothesis in step.ended:
            score = hypothesis.log_prob / len(hypothesis.sequence) ** length_penalty
            name = tokenizer.decode(list(hypothesis.sequence[:-1]))
            lines.append(style(f"  found: {name} ({score:.3f}; {_count(len(hypothesis.sequence), 'token')})", "found"))
        yield "\n".join(lines)
    passes = f"{_count(num_decoded, 'pass')} of the decoder for {_count(len(steps), 'step')}"
    lines = [style(f"{_count(len(found), 'title')} found, {passes}", "bold")]
    for place, hypothesis in enumerate(found, 1):
        score = hypothesis.log_prob / len(hypothesis.sequence) ** length_penalty
        ids = ", ".join(map(str, hypothesis.ids))
        lines.append(f"  {place:2}. {score:8.3f}  {tokenizer.decode(list(hypothesis.sequence[:-1]))}  (entity {ids})")
    yield "\n".join(lines)


def _written(tokenizer: Any, path: Sequence[int]) -> str:
    """Tokens with a mark between them, so that it's seen where they end."""
    return "·".join(tokenizer.convert_ids_to_tokens(list(path))) if path else "(nothing yet)"


def _count(number: int, noun: str) -> str:
    plural = "passes" if noun == "pass" else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"
