"""How `data/gpt2-mini` was made: a small GPT-2 that learns English from a larger model's texts.

    python -m tools.gpt2_mini write --minutes 60    the teacher writes texts
    python -m tools.gpt2_mini read                  beside it, what presidents wrote
    python -m tools.gpt2_mini train --minutes 60    the student learns from both
    python -m tools.gpt2_mini measure               what the published weights reach of the bar
    python -m tools.gpt2_mini publish               weights and model card go to data/gpt2-mini

Each step can be stopped at any time and continues where it was. See data/gpt2-mini/README.md for
what came out.
"""
