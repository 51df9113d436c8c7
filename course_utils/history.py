"""What happened in a training, and its picture."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import matplotlib.pyplot as plt

from course_utils.markup import in_matplotlib
from course_utils.metrics import perplexity
from course_utils.plots import COLOURS


@dataclass
class History:
    """What happened in training; losses in nats a token.

    Attributes:
        steps, train_loss, val_loss: one entry for each evaluation.
        batch_loss, learning_rate, grad_norm: one entry for each step; the gradient's norm is
            that before clipping.
        seconds: total time.
        interrupted: Ctrl-C ended the training before its last step.
    """

    steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    batch_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    def plot(self, baselines: Mapping[str, float] | None = None, title: str = "") -> plt.Figure:
        """Return a figure: loss on the left, perplexity on the right, on both splits.

        The right half leaves out the perplexity before training, which would flatten the rest.

        Args:
            baselines: losses to compare with, by name, drawn as dotted lines.
            title: put before the titles of both halves.
        """
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
        for axes, value in ((left, float), (right, perplexity)):
            for name, losses, style in (
                ("training", self.train_loss, "--"),
                ("validation", self.val_loss, "-"),
            ):
                axes.plot(self.steps, [value(loss) for loss in losses], style, label=name)
            for number, (name, loss) in enumerate((baselines or {}).items(), start=2):
                colour = COLOURS[number % len(COLOURS)]
                axes.axhline(value(loss), color=colour, linestyle=":", label=in_matplotlib(name))
            axes.set(xlabel="training step")
        left.set(title=f"{title}Loss", ylabel="cross-entropy (nats per token)")
        right.set(title=f"{title}Perplexity", ylabel="perplexity (tokens)")
        if len(self.steps) > 1:
            learned = self.train_loss[1:] + self.val_loss[1:]
            right.set_ylim(0, 1.15 * perplexity(max(learned)))
        left.legend(loc="center right", bbox_to_anchor=(1, 0.68), frameon=True, edgecolor="none")
        return figure
