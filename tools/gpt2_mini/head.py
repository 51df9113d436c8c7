"""The student's table of tokens, at both ends: how it begins, how it learns, how it is left."""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils import pretrained
from course_utils.bpe import from_symbols
from course_utils.device import fast_dtype
from tools.gpt2_mini.teacher import END

ALONG = 0.6  # cosine with the common direction from which on a row has learned nothing else


class SoftCrossEntropy(torch.autograd.Function):
    """Cross-entropy of softmax(x Wᵀ) to targets that share out the probability among few tokens.

    The logits of one batch are most of the memory and of the time. Their gradient is the softmax
    minus the targets, so it is computed along with them, a piece at a time, and the logits are
    never kept.
    """

    PIECE = 2048  # rows

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, tokens: Tensor, shares: Tensor, worth: Tensor
    ) -> Tensor:
        """Return the mean in nats a token, weighted by ``worth``, a scalar.

        The shapes are ``(N, C)``, ``(V, C)``, ``(N, K)``, ``(N, K)`` and ``(N,)``.
        """
        dtype = fast_dtype(x.device)
        narrow = weight.to(dtype)
        loss, dx, dw = x.new_zeros(()), torch.empty_like(x), torch.zeros_like(weight)
        worth = (worth / worth.sum())[:, None]  # (N, 1)
        pieces = (part.split(SoftCrossEntropy.PIECE) for part in (x, dx, tokens, shares, worth))
        for rows, grad, ids, share, w in zip(*pieces, strict=True):
            p = (rows.to(dtype) @ narrow.T).softmax(-1)  # (n, V)
            loss -= (w * share * p.gather(1, ids).float().clamp(min=1e-30).log()).sum()
            share, heavy = share[:, :, None], w * rows  # (n, K, 1), (n, C)
            grad.copy_(w * (p @ narrow - (share * weight[ids]).sum(1)))
            dw += p.T @ heavy.to(dtype)
            dw.index_add_(0, ids.flatten(), (share * heavy[:, None]).flatten(0, 1), alpha=-1)
        ctx.save_for_backward(dx, dw)
        return loss

    @staticmethod
    def backward(ctx, upstream: Tensor):
        """Scale the gradients that :meth:`forward` found."""
        dx, dw = ctx.saved_tensors
        return upstream * dx, upstream * dw, None, None, None


def transferred_embedding(n_embd: int) -> Tensor:
    """Return a token embedding ``(V, n_embd)`` made from SmolLM2's, for GPT-2's tokens.

    A token of GPT-2's gets the mean of the vectors of the pieces that SmolLM2 would write it with,
    and the vectors keep the ``n_embd`` directions in which they differ most (their principal
    components). They are scaled to the size that GPT-2's embedding starts with.
    """
    loaded = pretrained.load("smollm2")
    theirs = loaded.model.get_input_embeddings().weight.detach()  # (V', C')
    gpt2 = pretrained.load_tokenizer("gpt2")
    tokens = [from_symbols(t) for t in gpt2.convert_ids_to_tokens(range(len(gpt2)))]
    texts = [token.decode(errors="replace") for token in tokens[:END]]
    pieces = loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = torch.zeros(END + 1, theirs.shape[1])  # (V, C'), zeros for the end of text
    for row, ids in zip(rows, pieces, strict=False):
        if ids:
            row.copy_(theirs[ids].mean(0))
    rows = rows - rows.mean(0)
    _, directions = torch.linalg.eigh(rows.T @ rows)  # (C', C'), the strongest last
    rows = rows @ directions.flip(-1)[:, :n_embd]  # (V, n_embd)
    return rows * (0.02 / rows.std())


def settled_rows(
    weight: Tensor, trained: Tensor, first: Tensor, hidden: Tensor, leak: float = 0.01
) -> Tensor:
    """Return the table ``(V, C)`` with new rows for the tokens that have learned nothing.

    They are those not in ``trained`` whose rows are short, or lie along one direction, to which a
    softmax drives all that never come.

    Such a row begins as its row in ``first``, turned as the trained rows have turned on the whole
    (by the orthogonal matrix that maps their first values best to what they are now; Schönemann,
    1966, "A generalized solution of the orthogonal Procrustes problem"), with the trained rows'
    mean length. Some of the length, as little as is needed, is spent on the direction against
    which the states ``hidden`` ``(N, C)`` lie, so that all of these tokens together get at most
    ``leak`` of the probability.

    Args:
        weight: ``(V, C)``, the table.
        trained: ``(n,)``, ids of the tokens that were trained.
        first: ``(V, C)``, the table before training.
        hidden: ``(N, C)``, what the head reads at some places.
        leak: the share of the probability that the other tokens may have.
    """
    others = torch.ones(len(weight), dtype=torch.bool).index_fill_(0, trained, False)
    known = weight[trained]
    along = F.cosine_similarity(weight, weight[others].mean(0, keepdim=True), dim=-1)  # (V,)
    short = weight.norm(dim=-1) < known.norm(dim=-1).mean() / 2
    others &= short | (along > ALONG)
    centre = first[trained].mean(0)
    u, _, v = torch.linalg.svd((first[trained] - centre).T @ (known - known.mean(0)))
    own = F.normalize((first[others] - centre) @ u @ v, dim=-1)  # (n', C)
    away = -F.normalize(hidden.mean(0), dim=0)
    length = known.norm(dim=-1).mean()
    certain = (hidden @ known.T).logsumexp(-1)  # (N,)
    rows = own
    for against in torch.linspace(0, 0.95, 20):
        rows = F.normalize((1 - against**2).sqrt() * own + against * away, dim=-1) * length
        share = (hidden @ rows.T).logsumexp(-1).sub(certain).sigmoid().mean()
        if share < leak:
            break
    settled = weight.clone()
    settled[others] = rows
    return settled
