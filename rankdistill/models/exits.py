"""Exits: places after a number of layers where a model may stop. Where families keep their layers, heads, scores by exit.

An exit is numbered by the layers that are run: the deepest is the body's `num_hidden_layers`, and there is no exit 0.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.errors import BadDataError, WrongModelError
from rankdistill.formats.guarded import read_tensors
from rankdistill.models.backbone import cut_config
from rankdistill.models.packed import run_body
from rankdistill.models.towers import BatchScores

__all__ = [
    "FAMILIES",
    "MAX_SCALE",
    "MIN_SCALE",
    "Cell",
    "ExitHeads",
    "ExitScores",
    "Family",
    "HeadKind",
    "Learnt",
    "ManyExits",
    "between",
    "check_exit",
    "chosen_exits",
    "cut",
    "family_of",
    "final_norm",
    "load_exits",
    "save_exits",
    "shallow_copy",
    "states_at",
]

EXITS_FILE = "exits.safetensors"
"""Beside a checkpoint of the deepest exit: the weights that only a model with several has."""

CONDITION_SIZE = 4
"""Width of what tells a shared head its exit, as in ModularStarEncoder (`conditional_size`)."""

MIN_SCALE, MAX_SCALE = 1e-4, 30.0
"""A learnt scale is kept between these, as TempCoef of bigcode-encoder does, by the authors of ModularStarEncoder."""

HeadKind = Literal["linear", "shared", "none"]


class Family(NamedTuple):
    """Where a family of encoders keeps what exits need to know.

    Attributes:
        layers: path of its list of layers.
        norm: name of the norm after the last layer, which is applied at each exit; "" where each layer ends in its own.
    """

    layers: str
    norm: str = ""


FAMILIES = {
    "bert": Family("encoder.layer"),
    "camembert": Family("encoder.layer"),
    "distilbert": Family("transformer.layer"),
    "electra": Family("encoder.layer"),
    "modernbert": Family("layers", "final_norm"),
    "mpnet": Family("encoder.layer"),
    "roberta": Family("encoder.layer"),
    "xlm-roberta": Family("encoder.layer"),
}
"""By `model_type`. Their layers are run one after the other, and nothing but the final norm follows them."""


def family_of(body: PreTrainedModel) -> Family:
    """Where a body keeps its layers.

    Raises:
        WrongModelError: for a family that isn't covered.
    """
    kind = str(body.config.model_type)
    if kind not in FAMILIES:
        expected, found = f"an encoder whose exits are known ({', '.join(FAMILIES)})", f"one of the family {kind}"
        raise WrongModelError(expected, found, "start from another")
    return FAMILIES[kind]


def cut(body: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    """A body that runs the first `num_layers` layers of `body`, by its own code, and has its final norm.

    The modules are shared, not copied: training one trains the other, and moving one moves the other.

    Raises:
        WrongModelError: for a family that isn't covered.
        ValueError: if there aren't that many layers.
    """
    family_of(body)
    depth = int(body.config.num_hidden_layers)
    if not 1 <= num_layers <= depth:
        raise ValueError(f"exit {num_layers} does not exist: the body has layers 1 to {depth}")
    return between(body, 0, num_layers)


def between(body: PreTrainedModel, start: int, stop: int) -> PreTrainedModel:
    """A body that has the layers from `start` to `stop`, and all else that `body` has; shared, as in `cut`.

    Raises:
        WrongModelError: for a family that isn't covered.
    """
    family = family_of(body)
    config = copy.deepcopy(body.config)
    cut_config(config, stop, start)
    *outer, name = family.layers.split(".")
    top: PreTrainedModel = shallow_copy(body)
    parent: Any = top
    top.config = config
    for step in outer:
        inner = shallow_copy(getattr(parent, step))
        inner.config = config
        setattr(parent, step, inner)
        parent = inner
    setattr(parent, name, nn.ModuleList(list(getattr(parent, name))[start:stop]))
    return top


def shallow_copy(module: Any) -> Any:
    """A module with the same children and weights, of which it may get others without the original noticing."""
    other = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        other.__dict__[name] = dict(module.__dict__[name])
    return other


def final_norm(body: PreTrainedModel) -> nn.Module:
    """What is applied to the states at each exit; nothing for families whose layers end in a norm of their own."""
    name = family_of(body).norm
    norm: nn.Module = getattr(body, name) if name else nn.Identity()
    return norm


def states_at(
    body: PreTrainedModel, exits: Sequence[int], given: Mapping[str, Tensor], *, packed: bool = False
) -> list[Tensor]:
    """Token states [B, L, H] at each exit, in one pass of the body's own code.

    Args:
        exits: in order of depth, the last one not beyond the body's depth.
        given: the body's arguments.
        packed: as in `run_body`.
    """
    depth = int(body.config.num_hidden_layers)
    output = run_body(body, given, packed=packed, output_hidden_states=True)
    norm = final_norm(body)
    # The last state comes with the final norm, the others without.
    return [output[0] if exit == depth else norm(output.hidden_states[exit]) for exit in exits]


def chosen_exits(exits: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """The exits asked for, in order of depth; None is every second layer, the last one among them.

    Raises:
        ValueError: if one does not exist, or there are none.
    """
    if exits is None:
        # As Starbucks' (arXiv:2410.13230) six sizes of BERT-base: 2, 4, …, 12.
        return tuple(range(depth, 0, -2))[::-1]
    found = tuple(sorted(set(exits)))
    if not found:
        raise ValueError("expected at least one exit, found none")
    for exit in found:
        if not 1 <= exit <= depth:
            raise ValueError(f"exit {exit} does not exist: the body has layers 1 to {depth}")
    return found


def check_exit(exits: Sequence[int], exit: int | None) -> int:
    """The exit asked for (None is the deepest), or an error that lists those that there are."""
    if exit is None:
        return exits[-1]
    if exit not in exits:
        raise ValueError(f"exit {exit} does not exist: this model has exits {', '.join(map(str, exits))}")
    return exit


class Cell(NamedTuple):
    """A place in the grid of exits and widths.

    Attributes:
        exit: layers run.
        dim: first numbers of the vector that are kept; None for all.
    """

    exit: int
    dim: int | None = None

    def __str__(self) -> str:
        return f"exit{self.exit}" + ("" if self.dim is None else f"/dim{self.dim}")


@dataclass
class ExitScores(BatchScores):
    """Scores of a training batch at each exit; `scores` are those of the deepest, at full width.

    Attributes:
        at: by place, the shallowest exit first, full width before less.
        scales: [E], what multiplies the scores of each exit in contrastive terms; None if it isn't learnt.
        log_variances: [E], of uncertainty weighting; None if it isn't used.
    """

    at: dict[Cell, Tensor] = field(default_factory=dict)
    scales: Tensor | None = None
    log_variances: Tensor | None = None


class Learnt(nn.Module):
    """What a loss over exits learns for itself: it's trained, and resumed, with the model.

    Args:
        num_exits: how many numbers of each kind.
        scale: what multiplies scores at first, if that is learnt.
        uncertainty: whether weights are learnt.
    """

    def __init__(self, num_exits: int, *, scale: float | None = None, uncertainty: bool = False) -> None:
        super().__init__()
        self.num_exits = num_exits
        self.scale: nn.Parameter | None = None
        self.log_variance: nn.Parameter | None = None
        if scale is not None:
            self.scale = nn.Parameter(torch.full((num_exits,), float(scale)))
        if uncertainty:
            self.log_variance = nn.Parameter(torch.zeros(num_exits))

    @classmethod
    def of(cls, num_exits: int, names: Collection[str]) -> Learnt:
        """With the weights of these names, to be loaded."""
        return cls(num_exits, scale=1.0 if "scale" in names else None, uncertainty="log_variance" in names)

    def become(self, *, scale: float | None = None, uncertainty: bool = False) -> Learnt:
        """One that learns what is said here; what this one has learnt of it is kept."""
        other = Learnt(self.num_exits, scale=scale, uncertainty=uncertainty)
        other.load_state_dict(self.state_dict(), strict=False)
        return other

    # Not the weights themselves: DistributedDataParallel looks for results of operations in what forward returns.

    @property
    def scales(self) -> Tensor | None:
        """[E], each between `MIN_SCALE` and `MAX_SCALE`, if they're learnt."""
        return None if self.scale is None else self.scale.clamp(MIN_SCALE, MAX_SCALE)

    @property
    def log_variances(self) -> Tensor | None:
        """[E], if they're learnt."""
        return None if self.log_variance is None else self.log_variance.clone()


class ManyExits(nn.Module):
    """What models with several exits have in common: heads beside the body, and what the loss learns.

    Attributes:
        exits: layers at each exit, in order of depth; the last is all of the body's.
        learnt: what a loss over the exits learns for itself.
    """

    exits: tuple[int, ...]
    learnt: Learnt

    def learn(self, *, scale: float | None = None, uncertainty: bool = False) -> None:
        """Says what the loss is to learn for itself, as `Learnt`; what has been learnt already is kept."""
        device = next(self.parameters()).device
        self.learnt = self.learnt.become(scale=scale, uncertainty=uncertainty).to(device)

    def _scored(self, at: dict[Cell, Tensor], *, in_batch: bool) -> ExitScores:
        deepest, learnt = at[Cell(self.exits[-1])], self.learnt
        return ExitScores(deepest, in_batch, at=at, scales=learnt.scales, log_variances=learnt.log_variances)

    def _own_parts(self) -> dict[str, nn.Module]:
        """Weights that only a model with several exits has."""
        return {"heads": cast(nn.Module, self.heads), "learnt": self.learnt}


class ExitHeads(nn.Module):
    """A linear head for each exit; untrained, all leave the first `out_features` numbers of a state as they are.

    Args:
        kind: "linear", one for each exit. "shared", one for all, told its exit by a vector that is put behind the state (as the
            heads of ModularStarEncoder's pre-training). "none", no head.
        exits: layers at each exit.
        in_features: width H of states.
        out_features: width D.
        start: a head to start from, in place of the identity.

    Raises:
        ValueError: for no heads and another width than the states', or a head to start from.
    """

    def __init__(
        self, kind: HeadKind, exits: Sequence[int], in_features: int, out_features: int, start: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.kind, self.exits = kind, tuple(exits)
        self.in_features, self.out_features = in_features, out_features
        if kind == "none":
            if out_features != in_features or start is not None:
                found = "a projection to start from" if start is not None else f"{out_features} asked for"
                raise ValueError(f"vectors without head are as wide as the states ({in_features}), found {found}")
            return
        with torch.no_grad():
            weight_DH = torch.eye(out_features, in_features) if start is None else start.weight.detach().clone()
            bias_D = None if start is None or start.bias is None else start.bias.detach().clone()
            self.bias: nn.Parameter | None = None
            if kind == "shared":
                self.condition = nn.Embedding(len(self.exits), CONDITION_SIZE)
                more_DC = torch.zeros(out_features, CONDITION_SIZE)
                self.weight = nn.Parameter(torch.cat([weight_DH, more_DC], 1))
                self.bias = nn.Parameter(torch.zeros(out_features) if bias_D is None else bias_D)
            else:
                self.weight = nn.Parameter(weight_DH.repeat(len(self.exits), 1, 1))
                if bias_D is not None:
                    self.bias = nn.Parameter(bias_D.repeat(len(self.exits), 1))

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """What the heads make of each exit's states [..., H]: [..., D]."""
        return [self.at(i, state) for i, state in enumerate(states)]

    def at(self, i: int, state: Tensor) -> Tensor:
        """What the head of the exit at position `i` makes of its states [..., H]: [..., D]."""
        return state if self.kind == "none" else nn.functional.linear(state, *self._weights(i))

    def _weights(self, i: int) -> tuple[Tensor, Tensor | None]:
        """Weight [D, H] and bias [D] of the exit at position `i`."""
        if self.kind == "linear":
            return self.weight[i], None if self.bias is None else self.bias[i]
        # A linear function of [state; condition] is one of the state, plus what the condition gives.
        told_D = self.weight[:, self.in_features :] @ self.condition.weight[i]
        return self.weight[:, : self.in_features], told_D + cast(Tensor, self.bias)

    @torch.no_grad()
    def fold(self, exit: int, dim: int | None = None) -> nn.Linear | None:
        """One exit's head, as it is now, as a plain layer that gives the first `dim` numbers; None if it changes nothing."""
        dim = self.out_features if dim is None else dim
        if self.kind == "none":
            if dim == self.in_features:
                return None
            weight_DH, bias_D = torch.eye(self.out_features, self.in_features), None
        else:
            weight_DH, bias_D = self._weights(self.exits.index(exit))
        linear = nn.Linear(self.in_features, dim, bias=bias_D is not None)
        linear.weight.copy_(weight_DH[:dim])
        if bias_D is not None:
            linear.bias.copy_(bias_D[:dim])
        return linear.to(weight_DH.device)


def save_exits(folder: Path, parts: Mapping[str, nn.Module]) -> None:
    """Writes the weights that only a model with several exits has."""
    weights = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, part in parts.items()
        for key, tensor in part.state_dict().items()
    }
    save_file(weights, folder / EXITS_FILE)


def load_exits(folder: Path, parts: Mapping[str, nn.Module]) -> None:
    """Reads them back, into parts of the same shape.

    Raises:
        BadDataError: if weights are missing, or there are others.
    """
    path = folder / EXITS_FILE
    if not path.is_file():
        raise BadDataError("the weights of the exits", "no such file", "save the checkpoint again, whole", str(path))
    stored = read_tensors(path)
    wanted = {f"{name}.{key}" for name, part in parts.items() for key in part.state_dict()}
    if wanted != stored.keys():
        odd = sorted(wanted ^ stored.keys())
        found = f"{len(odd)} missing or unknown (first: {odd[0]})"
        remedy = "save the checkpoint again, whole"
        raise BadDataError("the weights that rankdistill.json speaks of", found, remedy, str(path))
    for name, part in parts.items():
        part.load_state_dict({key: stored[f"{name}.{key}"] for key in part.state_dict()})
