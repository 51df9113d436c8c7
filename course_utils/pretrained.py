"""Real models, tokenizers and word vectors by a short name, each with a card.

The card says what was loaded, from where, its size and licence and, if it stands in for a model
that could not be fetched, for which one and what differs.
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from course_utils import assets
from course_utils.assets import resolve
from course_utils.markup import Markup, html_table

logging.disable_progress_bar()  # loading takes a second; a bar per model is noise on the page

#: The models that :func:`load` knows.
MODELS = ("gpt2", "distilgpt2", "bert", "smollm2")


@dataclass(frozen=True)
class Card:
    """What was loaded. As the last line of a cell it shows itself as a small table."""

    name: str
    title: str
    source: str
    licence: str
    homepage: str
    n_parameters: int
    n_bytes: int
    stands_in_for: str | None = None
    differs: str = ""
    reason: str = ""

    def rows(self) -> dict[str, str]:
        """Return the card as label and text, in the order to read."""
        rows = {
            "Loaded": self.title,
            "From": self.source,
            "Size": f"{self.n_parameters:,} parameters, {self.n_bytes / 1e6:.0f} MB on disk",
            "Licence": self.licence,
        }
        if self.stands_in_for:
            why = f"which could not be fetched ({self.reason})"
            rows["Stands in for"] = f"{self.stands_in_for}, {why}"
            rows["What differs"] = self.differs
        return rows

    def __repr__(self) -> str:
        return "\n".join(f"{label}: {text}" for label, text in self.rows().items())

    def _repr_html_(self) -> str:
        rows = self.rows()
        if self.homepage:
            rows["Loaded"] = Markup('<a href="{}">{}</a>').format(self.homepage, self.title)
        kind = "stand-in" if self.stands_in_for else "original"
        return html_table(list(rows.items()), row_heads=True, css=f"course-card course-card-{kind}")


class Pretrained(NamedTuple):
    """A loaded model with its tokenizer and its card."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    card: Card


def load(
    name: str, *, attn_implementation: str = "sdpa", device: torch.device | str = "cpu"
) -> Pretrained:
    """Return ``(model, tokenizer, card)`` of a pretrained model, in float32 and in eval mode.

    Args:
        name: ``gpt2``, ``distilgpt2``, ``bert`` or ``smollm2``.
        attn_implementation: ``"eager"`` to get the attention weights with
            ``output_attentions=True``; ``"sdpa"``, the default, is faster and gives none.
        device: where the weights go.

    Raises:
        KeyError: no model has this name.
        AssetError: neither the model nor a stand-in could be fetched; it says what was tried.
    """
    if name not in MODELS:
        raise KeyError(f"no model is called {name!r}; there are: {', '.join(MODELS)}")
    kind = transformers.AutoModel if name == "bert" else transformers.AutoModelForCausalLM
    return _load(name, kind, attn_implementation, device)


def load_masked_lm(
    *, attn_implementation: str = "sdpa", device: torch.device | str = "cpu"
) -> Pretrained:
    """Return BERT with its head for masked words: ``(model, tokenizer, card)``, see :func:`load`.

    The stand-in encoder has no such head. It gets one, and changes of low rank to its weights,
    which this course trained for it (``tools/masked_words.py``).

    Raises:
        AssetError: neither the model nor a stand-in could be fetched; it says what was tried.
    """
    if resolve("bert")[0] == "bert":
        return _load("bert", transformers.BertForMaskedLM, attn_implementation, device)
    encoder, tokenizer, card = load("bert", attn_implementation=attn_implementation)
    model = with_new_head(encoder)
    added = assets.manifest()["minilm-masked"]
    tensors = load_file(assets.get("minilm-masked") / "model.safetensors")
    for name in [name.removesuffix(".A") for name in tensors if name.endswith(".A")]:
        thin = tensors.pop(f"{name}.B").float() @ tensors.pop(f"{name}.A").float()
        model.get_parameter(f"{name}.weight").data += thin
    model.load_state_dict(tensors, strict=False)  # the head; all else is there
    card = replace(card, title=f"{card.title}, {added.title}", differs=added.differs)
    return Pretrained(model.to(device), tokenizer, card)


def with_new_head(encoder: PreTrainedModel) -> transformers.BertForMaskedLM:
    """Return ``encoder`` with BERT's head for masked words on top, untrained, in eval mode."""
    model = transformers.BertForMaskedLM(encoder.config)
    model.bert.load_state_dict(encoder.state_dict(), strict=False)  # the pooler is not needed
    return model.eval()


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of ``gpt2``, ``distilgpt2``, ``bert`` or ``smollm2`` without a model.

    GPT-2's and BERT's are the exact originals, whichever model can be fetched.
    """
    if name not in MODELS:
        raise KeyError(f"no tokenizer is called {name!r}; there are: {', '.join(MODELS)}")
    # The other tokenizers are assets of their own and need no folder of a model.
    folder = folder_of(resolve(name)[0]) if name == "smollm2" else Path()
    return _tokenizer(name, folder)


def folder_of(asset: str) -> Path:
    """Return the folder to load an asset from; fetch it, and expand 4-bit weights, if necessary."""
    return _expanded(asset) if asset == "smollm2-q4" else assets.get(asset)


def load_glove():
    """Return GloVe's 400,000 word vectors of 50 dimensions as gensim ``KeyedVectors``.

    Raises:
        ModuleNotFoundError: gensim is not installed; it has no wheel for Python 3.14 and newer.
        AssetError: the vectors cannot be fetched.
    """
    import numpy as np

    try:
        import pyarrow.parquet as parquet
        from gensim.models import KeyedVectors
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed, which word vectors need: `pip install {error.name}`. "
            "gensim exists for Python up to 3.13 only."
        ) from None
    folder = assets.get("glove")
    vectors = np.load(folder / "vectors.npy", allow_pickle=False)
    words = parquet.read_table(folder / "index.parquet")["index"].to_pylist()
    keyed = KeyedVectors(vectors.shape[1], count=0)
    keyed.add_vectors(words, vectors)
    return keyed


def _load(name: str, kind: Any, attn_implementation: str, device: torch.device | str) -> Pretrained:
    """Return model ``name`` or its stand-in, read as class ``kind``, with tokenizer and card."""
    found, reason = resolve(name)
    folder = folder_of(found)
    of_file = transformers.AutoConfig.from_pretrained
    model = kind.from_pretrained(
        folder,
        # The file of bert-base-uncased is its weights; BertConfig's defaults are its shape.
        config=transformers.BertConfig() if found == "bert" else of_file(folder),
        dtype=torch.float32,
        attn_implementation=attn_implementation,
        use_safetensors=True,
        local_files_only=True,
    )
    tokenizer = _tokenizer(name, folder)
    if name == "gpt2":
        tokenizer.model_max_length = model.config.n_positions  # a stand-in may have fewer
    asset = assets.manifest()[found]
    card = Card(
        name=found,
        title=asset.title,
        source=assets.origin(found),
        licence=asset.licence,
        homepage=asset.homepage,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_bytes=asset.size,
        stands_in_for=assets.manifest()[name].title if found != name else None,
        differs=asset.differs,
        reason=reason,
    )
    return Pretrained(model.eval().to(device), tokenizer, card)


def _tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    if name == "smollm2":
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if name == "bert":
        vocabulary = assets.get("bert-vocabulary") / "vocab.txt"
        return transformers.BertTokenizer(vocab=str(vocabulary), model_max_length=512)
    folder = assets.get("gpt2-tokenizer")
    vocab, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
    return transformers.GPT2Tokenizer(vocab=vocab, merges=merges, model_max_length=1024)


def _expanded(name: str) -> Path:
    """Return a folder with the GGUF file of asset ``name`` as ordinary float32 safetensors.

    Expanding the 4-bit weights takes a while, so the result is kept beside the file, with a
    checksum that is verified on each use.
    """
    (file,) = assets.manifest()[name].files
    source = assets.get(name)
    subfolder = Path(name) / f"float32-{file.sha256[:12]}"
    for folder, _ in assets.local_folders():
        if _is_complete(folder / subfolder):
            return folder / subfolder
    target = assets.cache_folder() / subfolder
    try:
        _expand(source, file.name, target)
    except OSError as error:
        raise assets.explain(error, assets.manifest()[name]) from error
    return target


def _expand(source: Path, gguf_file: str, target: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(source, gguf_file=gguf_file)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=gguf_file, config=config, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
    target.parent.mkdir(parents=True, exist_ok=True)
    with assets.partial_folder(target.parent) as partial:
        _save(model, tokenizer, Path(partial))
        for path in (Path(partial), *Path(partial).iterdir()):  # some only the owner may read
            assets.share(path)
        shutil.rmtree(target, ignore_errors=True)
        try:
            os.replace(partial, target)
        except OSError:
            if not _is_complete(target):  # another process may have been faster
                raise


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    digest = assets.sha256(folder / "model.safetensors")
    (folder / "checksum.json").write_text(json.dumps({"model.safetensors": digest}))


def _is_complete(folder: Path) -> bool:
    try:
        digest = json.loads((folder / "checksum.json").read_text())["model.safetensors"]
        return assets.sha256(folder / "model.safetensors") == digest
    except (OSError, ValueError, KeyError):
        return False
