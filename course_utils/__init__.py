"""Helper package of the course: what the chapters import.

Rooms, from the ground up (nothing imports what stands below it in this list)::

    device, progress, files, metrics   device, seeds; progress bar; perplexity, diversity
    assets                 where a file comes from, and that it is the right one
    pretrained, corpora    models and tokenizers by short name; texts, splits, batches
    plots, tokens_html, attention_views   figures that work in a notebook and in the book
    bpe, positions, layers, attention, gpt   a byte-level BPE tokenizer; the transformer
    weights                GPT-2's and Llama's weights into our GPT, and back
    optimizers, history, checkpoints   AdamW and Muon; what training draws; what it keeps
    distributed, training, recipes   several processes; the training loop; ways to use it
    sampling               next-token strategies, the generation loop, beam search
"""

import os

# Threads that wait spin for a moment, then give their core away (see the Makefile). It is read when
# torch is loaded, so it counts for commands and for notebooks that import the course first.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
