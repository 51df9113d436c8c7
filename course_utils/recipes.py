"""Two recipes for the mini-LLM, and the faster of them in other sizes."""

from dataclasses import replace

from course_utils.gpt import GPTConfig
from course_utils.inputs import check_kind
from course_utils.training import TrainConfig

#: The recipes that :func:`recipe` knows.
RECIPES = ("classic", "fast")


def recipe(name: str, vocab_size: int, steps: int) -> tuple[GPTConfig, TrainConfig]:
    """Return how to build and how to train a character model of about 0.8 million parameters.

    "classic" is a small GPT-2, trained with AdamW. "fast" uses what later work has found to learn
    more in the same time: rotary positions, normalised queries and keys, the square of ReLU, no
    biases, twice the context, and Muon for the matrices. Both use bfloat16 on devices where it is
    faster. ``make bench ONLY=mini_llm`` measures what each ingredient contributes.

    Args:
        name: "classic" or "fast".
        vocab_size: number of different tokens.
        steps: updates of the weights, over which the learning rates rise and fall to zero.

    Raises:
        ValueError: the recipe is unknown.
    """
    check_kind("name", name, RECIPES)
    warmup = min(100, steps // 10)
    if name == "classic":
        gpt = GPTConfig(vocab_size, block_size=64, mlp="gelu")
        return gpt, TrainConfig(steps, warmup_steps=warmup)
    gpt = GPTConfig(
        vocab_size, block_size=128, positions="rotary", mlp="relu2", qk_norm=True, bias=False
    )
    return gpt, TrainConfig(steps, optimizer="muon", schedule="linear", warmup_steps=warmup)


def scaled(
    vocab_size: int, n_layer: int, n_embd: int, tokens: int
) -> tuple[GPTConfig, TrainConfig]:
    """Return the fast recipe for another model size and another length of training.

    Heads stay 16 channels wide, and the learning rates reach zero at the end, whatever the length,
    so that every run is the best that the recipe can do with its size and its tokens.

    Args:
        vocab_size: number of different tokens.
        n_layer, n_embd: depth and width of the model; ``n_embd`` is a multiple of 16.
        tokens: how many are read, repetitions included; rounded to whole batches.
    """
    gpt, train = recipe("fast", vocab_size, steps=100)
    steps = max(2, round(tokens / (train.batch_size * gpt.block_size)))
    gpt = replace(gpt, n_layer=n_layer, n_embd=n_embd, n_head=n_embd // 16)
    return gpt, replace(train, steps=steps, warmup_steps=steps // 10, eval_every=steps)
