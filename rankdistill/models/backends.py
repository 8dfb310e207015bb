"""Inference by another library than torch: the body is compiled once, and the model is used as before."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from rankdistill.errors import MissingDependencyError, WrongModelError

__all__ = ["Backend", "OpenVinoBody", "compile_openvino"]

Backend = Literal["torch", "openvino"]

# Where our models keep the body that does nearly all the work.
_BODIES = ("encoder", "mlm", "classifier")


class OpenVinoBody(nn.Module):
    """A body of transformers whose forward OpenVINO runs; its weights, config and embeddings are as they were.

    Products are in float32, or in bfloat16 where torch's autocast is on for the CPU. For inference only: no gradient comes
    through.

    Args:
        body: any model of transformers; its first output, or its logits, is what is computed.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body, self.config = body, body.config
        self._compiled: dict[tuple[str, ...], Any] = {}

    def forward(self, **inputs: Tensor) -> Any:
        """What the body's forward gives: indexable, or with `.logits`."""
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        precision = "bf16" if bf16 else "f32"
        key = (precision, *sorted(inputs))
        if key not in self._compiled:
            self._compiled[key] = _compile(self.body, inputs, precision)
        given = [inputs[name].contiguous().numpy() for name in sorted(inputs)]
        # OpenVINO writes the next result into the same memory.
        output = torch.from_numpy(self._compiled[key](given)[0].copy())
        return MaskedLMOutput(logits=output) if _has_logits(self.body) else BaseModelOutput(output)

    def get_input_embeddings(self) -> nn.Module:
        """The body's."""
        embeddings: nn.Module = self.body.get_input_embeddings()
        return embeddings

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As the body does."""
        self.body.save_pretrained(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The body's, under its own names."""
        return self.body.state_dict(*args, **kwargs)


class _Outputs(nn.Module):
    """The one output of a body that counts, of inputs by their places."""

    def __init__(self, body: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.body, self.names = body, names

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs: Any = self.body(**dict(zip(self.names, inputs, strict=True)))
        only: Tensor = outputs.logits if _has_logits(self.body) else outputs[0]
        return only


def _has_logits(body: nn.Module) -> bool:
    return type(body).__name__.endswith(("ForMaskedLM", "ForSequenceClassification"))


def compile_openvino(model: nn.Module) -> None:
    """Lets OpenVINO run a model's body from now on; what it gives stays the same up to rounding.

    Args:
        model: a dot, ColBERT, SPLADE or cross-encoder model, on the CPU.

    Raises:
        MissingDependencyError: without OpenVINO.
        WrongModelError: for other models, or one that is on another device.
    """
    _import()
    name = next((name for name in _BODIES if isinstance(getattr(model, name, None), nn.Module)), None)
    if name is None:
        found = f"a {getattr(model, 'architecture', type(model).__name__)} model"
        raise WrongModelError(
            "a dot, colbert, splade or cross-encoder model for the backend openvino", found, "use the backend torch"
        )
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise WrongModelError(
            "a model on the CPU for the backend openvino", f"one on {device}", 'choose the device "cpu"'
        )
    setattr(model, name, OpenVinoBody(getattr(model, name)))


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            "the package openvino", "none installed", "pip install 'rankdistill[openvino]'"
        ) from error
    return openvino


def _compile(body: nn.Module, inputs: Mapping[str, Tensor], precision: str) -> Any:
    openvino = _import()
    # Two texts of different lengths, so that the trace has batches, lengths and padding in it.
    example = {name: tensor[:1].repeat(2, *[1] * (tensor.dim() - 1)).clone() for name, tensor in inputs.items()}
    example["attention_mask"][1, 1:] = 0
    was_enabled = torch.is_autocast_enabled("cpu")
    torch.set_autocast_enabled("cpu", False)
    try:
        names = tuple(sorted(example))
        whole = _Outputs(body, names).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, of its age and of comparisons that hold for all lengths
            converted = openvino.convert_model(whole, example_input=tuple(example[name] for name in names))
    finally:
        torch.set_autocast_enabled("cpu", was_enabled)
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    settings["ENABLE_CPU_PINNING"] = False  # or processes side by side would all be put on the first cores
    return openvino.Core().compile_model(converted, "CPU", settings)
