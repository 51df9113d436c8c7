"""Models to choose from in the homework, in order of size, and which of them fit this machine.

The chapters load models through :mod:`course_utils.pretrained`, with checksums and stand-ins.
Here a reader may take any model of the list, and those from the hub come as they are there today.
"""

from dataclasses import dataclass

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from course_utils import assets, pretrained

#: What a float32 model needs besides its weights: activations, the cache, a copy while loading.
HEADROOM = 1.5


@dataclass(frozen=True)
class Suggestion:
    """A decoder that fits a homework.

    Attributes:
        name: what :func:`load` takes.
        repo: its name on the hub.
        n_parameters: tied matrices counted once.
        bytes_per_weight: in the published file, 4 for float32 and 2 for bfloat16.
        licence: its name.
        gated: the hub asks you to log in and accept the licence first.
    """

    name: str
    repo: str
    n_parameters: int
    bytes_per_weight: int
    licence: str
    gated: bool = False

    @property
    def disk_gb(self) -> float:
        """Size of the published weights in GB, without what else is in the file."""
        return self.n_parameters * self.bytes_per_weight / 1e9

    @property
    def memory_gb(self) -> float:
        """Memory in GB to run it in float32, the number format of the course."""
        return self.n_parameters * 4 * HEADROOM / 1e9


#: From small to large. A test computes the parameters from the models' configurations.
SUGGESTIONS = (
    Suggestion("distilgpt2", "distilbert/distilgpt2", 81_912_576, 4, "Apache-2.0"),
    Suggestion("gpt2", "openai-community/gpt2", 124_439_808, 4, "MIT"),
    Suggestion("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008, 2, "Apache-2.0"),
    Suggestion("gpt2-medium", "openai-community/gpt2-medium", 354_823_168, 4, "MIT"),
    Suggestion("smollm2-360m", "HuggingFaceTB/SmolLM2-360M", 361_821_120, 2, "Apache-2.0"),
    Suggestion("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", 494_032_768, 2, "Apache-2.0"),
    Suggestion(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B",
        1_235_814_400,
        2,
        "Llama 3.2 Community License",
        gated=True,
    ),
    Suggestion("gemma-2b", "google/gemma-2b", 2_506_172_416, 2, "Gemma Terms of Use", gated=True),
)


def free_memory_gb(device: torch.device) -> float:
    """Return the memory in GB that is free for a model on ``device``."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e9
    return psutil.virtual_memory().available / 1e9


def fitting(memory_gb: float) -> list[Suggestion]:
    """Return the suggestions that need no more than ``memory_gb``, from small to large."""
    return [each for each in SUGGESTIONS if each.memory_gb <= memory_gb]


def rows(memory_gb: float) -> list[dict[str, str]]:
    """Return the suggestions as rows for :func:`course_utils.plots.table`."""
    fit = fitting(memory_gb)
    return [
        {
            "name": each.name,
            "parameters": f"{each.n_parameters / 1e6:,.0f} million",
            "on disk": f"{each.disk_gb:.1f} GB",
            "memory": f"{each.memory_gb:.1f} GB",
            "licence": each.licence,
            "access": "log in and accept the licence" if each.gated else "open",
            "fits here": "yes" if each in fit else "no",
        }
        for each in SUGGESTIONS
    ]


def load(
    name: str, *, attn_implementation: str = "sdpa", device: torch.device | str = "cpu"
) -> pretrained.Pretrained:
    """Return ``(model, tokenizer, card)`` of a suggestion, in float32 and in eval mode.

    What :func:`course_utils.pretrained.load` knows comes from there, with its stand-ins; all
    others come from the hub as they are there today.

    Raises:
        KeyError: no suggestion has this name.
        AssetError: the model cannot be fetched; the message says what to do.
    """
    chosen = {each.name: each for each in SUGGESTIONS}.get(name)
    if chosen is None:
        names = ", ".join(each.name for each in SUGGESTIONS)
        raise KeyError(f"no model is called {name!r}; there are: {names}")
    if name in pretrained.MODELS:
        return pretrained.load(name, attn_implementation=attn_implementation, device=device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(chosen.repo)
        model = AutoModelForCausalLM.from_pretrained(
            chosen.repo, dtype=torch.float32, attn_implementation=attn_implementation
        )
    except OSError as error:
        raise assets.AssetError(_what_to_do(chosen)) from error
    model.to(device).eval()
    card = pretrained.Card(
        name=name,
        title=chosen.repo,
        source="the model hub, its current revision",
        licence=chosen.licence,
        homepage=f"https://huggingface.co/{chosen.repo}",
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_bytes=round(chosen.disk_gb * 1e9),
    )
    return pretrained.Pretrained(model, tokenizer, card)


def _what_to_do(chosen: Suggestion) -> str:
    message = f"{chosen.repo} could not be loaded. Is the hub within reach? "
    if chosen.gated:
        message += (
            "This model is gated: accept its licence on its page, make an access token and run "
            "`hf auth login` in a terminal (never write a token into a notebook). "
        )
    return (
        message + 'Without the hub, take "gpt2" or "smollm2": the course has both, or a stand-in.'
    )
