"""Helper package of the course: what the chapters import.

Rooms, from the ground up (nothing imports what stands below it in this list)::

    device, metrics        device, seeds, threads; losses and perplexity
    assets                 where a file comes from, and that it is the right one
    pretrained, corpora    models and tokenizers by short name; texts, splits, batches
    plots, tokens_html, attention_views   figures that work in a notebook and in the book
    layers, gpt, bpe       attention and blocks; a GPT; a byte-level BPE tokenizer
    training, sampling     the training loop; next-token strategies
    checks                 say whether an exercise is right, and if not, why
"""

__version__ = "0.1.0"
