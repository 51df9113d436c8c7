"""Text from a language model, one token after the other; and samples to leaf through."""

import html
from collections.abc import Sequence

import torch
from IPython.display import HTML, display
from torch import Tensor

from course_utils.gpt import GPT


@torch.no_grad()
def generate(
    model: GPT,
    ids: Tensor,
    n_tokens: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return ``ids`` with ``n_tokens`` more tokens.

    The model reads the last ``block_size`` tokens, what stands before them is forgotten. Each new
    token is drawn from softmax(logits / temperature) of the last position.

    Args:
        model: a :class:`~course_utils.gpt.GPT`; it is left in the mode, training or not, it was in.
        ids: ``(B, T)``, the prompts, all of one length, at least one token.
        n_tokens: how many to add.
        temperature: 1 draws from the model's own probabilities, below 1 prefers the likely tokens,
            and 0 takes the most likely one (greedy decoding, nothing is drawn).
        generator: a CPU generator, where the draws come from; torch's global one by default.

    Returns:
        ``(B, T + n_tokens)``, on the device of ``ids``.

    Raises:
        ValueError: a negative temperature, no prompt, or a negative ``n_tokens``.
    """
    if temperature < 0:
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or above.")
    if n_tokens < 0:
        raise ValueError(f"n_tokens={n_tokens} must be at least 0.")
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"ids has shape {tuple(ids.shape)}; expected (batch, time) with at least one token. "
            "For one prompt, write ids[None]."
        )
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    out = ids.to(device)
    for _ in range(n_tokens):
        logits, _ = model(out[:, -model.config.block_size :])  # (B, T, V)
        token = next_token(logits[:, -1], temperature, generator)  # (B, 1)
        out = torch.cat([out, token], dim=1)
    model.train(was_training)
    return out.to(ids.device)


def next_token(
    logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Return one token for each row of ``logits``: ``(B, V)`` -> ``(B, 1)``.

    Drawing happens on the CPU, so that one seed gives one text on every device.
    """
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    weights = (logits.float() / temperature).softmax(dim=-1).cpu()
    return torch.multinomial(weights, num_samples=1, generator=generator).to(logits.device)


def show_snapshots(snapshots: Sequence[tuple[str, str]], label: str) -> None:
    """Display texts one at a time, with a slider to move between them; the last is shown first.

    Args:
        snapshots: ``(caption, text)`` of each, for example of one moment of the training.
        label: what the slider moves through, for example "training step".

    The page works without a network, and the slider with the arrow keys. Text is escaped.
    """
    if not snapshots:
        raise ValueError("snapshots is empty: there is no text to show.")
    last = len(snapshots) - 1
    panels = "".join(
        f'<div class="course-snapshot"{"" if number == last else " hidden"}>'
        f'<p style="margin:0.3rem 0"><strong>{html.escape(caption)}</strong></p>'
        '<div style="white-space:pre-wrap;overflow-wrap:anywhere;min-height:11em;'
        "font-family:monospace;font-size:0.9em;line-height:1.35;padding:0.6rem 0.8rem;"
        f'border:1px solid #8888;border-radius:6px">{html.escape(text)}</div></div>'
        for number, (caption, text) in enumerate(snapshots)
    )
    # All of the script: show the panel of the slider's number, and say its caption aloud.
    script = (
        "const panels=this.closest('.course-snapshots').querySelectorAll('.course-snapshot');"
        "panels.forEach((panel,number)=>{panel.hidden=number!=this.value});"
        "this.setAttribute('aria-valuetext',panels[this.value].querySelector('strong').textContent)"
    )
    display(
        HTML(
            '<div class="course-snapshots" style="max-width:46rem"><label style="display:flex;'
            f'gap:0.8rem;align-items:center"><span>{html.escape(label)}</span>'
            f'<input type="range" min="0" max="{last}" value="{last}" style="flex:1" '
            f'aria-valuetext="{html.escape(snapshots[-1][0])}" oninput="{script}"></label>'
            f'<div aria-live="polite">{panels}</div></div>'
        )
    )
