"""Helper package of the course: what the chapters import.

Rooms, from the ground up. A room imports only what is above it in this list::

    settings, inputs, files, progress   the environment; checks; whole files; a bar
    device, metrics        device and seeds; perplexity, diversity
    manifest, sources, assets   which files there are, and where from; that each is the right one
    pretrained, corpora    models and tokenizers by short name; texts, splits, batches
    bpe                    a byte-level BPE tokenizer
    plots, tokens_html, attention_views   figures that work in a notebook and in the book
    kv_cache, positions, variants   the transformer's cache, its positions, what other designs do
    gpt, weights           the transformer, and GPT-2's and Llama's weights
    optimizers, checkpoints, distributed   Muon; what training saves; several processes
    run, training, recipes   what goes on around the training loop; the loop; ways to use it
    sampling               next-token strategies, the generation loop, beam search

The commands of ``python -m course_utils`` are in :mod:`course_commands`.
"""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is what says so
    # A command ends with the sentence alone, an import in an error that can be caught.
    raise (SystemExit if sys.argv[:1] == ["-m"] else ImportError)(
        f"The course needs Python 3.11 or newer; this is Python {sys.version.split()[0]} in "
        f"{sys.prefix}. Make the environment again with another: make PYTHON=python3.12"
    )

from course_utils import settings

# Threads that wait spin for a moment, then give their core away (see the Makefile). It is read when
# torch is loaded, so it counts for commands and for notebooks that import the course first.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
settings.keep_caches_writable()

__version__ = "0.1.0"
