"""Muon against torch's own, and Newton-Schulz against the singular value decomposition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.optimizers import Muon, orthogonalize

SHAPES = st.lists(
    st.lists(st.integers(1, 7), min_size=0, max_size=3).map(tuple), min_size=1, max_size=4
)
MATRICES = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4
).flatmap(lambda shapes: st.just([*shapes, shapes[0]]))  # two of one shape
SEEDS = st.integers(0, 2**31)


def parameters(shapes, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def run(optimizer, params, n_steps, seed):
    """``n_steps`` with drawn gradients of many sizes, now and then none for a parameter."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_steps):
        for p in params:
            scale = 10 ** (6 * torch.rand((), generator=generator, dtype=torch.float64) - 3)
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype) * scale.to(p.dtype)
            if torch.rand((), generator=generator) < 0.1:
                p.grad = None
        optimizer.step()


def copies(params):
    return [p.detach().clone().requires_grad_() for p in params]


@pytest.mark.parametrize("make", [Muon, lambda params: Muon(params, dtype=torch.bfloat16)])
def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(make, tmp_path):
    shapes = [(4, 3), (4, 3), (2, 5)]
    whole = parameters(shapes, 0)
    optimizer = make(whole)
    run(optimizer, whole, 5, 1)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    half = copies(whole)
    again = make(half)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    forgetful = copies(whole)
    for one, params in ((optimizer, whole), (again, half), (make(forgetful), forgetful)):
        run(one, params, 5, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole, half, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(whole, forgetful, strict=True))


def test_groups_have_their_own_settings():
    still, moving = parameters([(2, 2), (2, 2)], 0)
    before = still.detach().clone()
    optimizer = Muon([{"params": [still], "lr": 0.0}, {"params": [moving], "lr": 0.1}])
    start = moving.detach().clone()
    still.grad, moving.grad = torch.ones(2, 2), torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(still, before)
    assert not torch.equal(moving, start)


# --- Newton-Schulz -------------------------------------------------------------------------------


def by_decomposition(matrix):
    """The polynomial on the singular values themselves, in float64."""
    U, S, Vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    S = S / S.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-7)
    for _ in range(5):
        S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
    return U @ torch.diag_embed(S) @ Vt


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 40), st.integers(1, 40), SEEDS, st.floats(-6, 6))
def test_orthogonalize_is_the_polynomial_of_the_singular_values(m, n, seed, size):
    matrix = parameters([(m, n)], seed)[0].detach() * 10**size
    ours = orthogonalize(matrix)
    assert ours.shape == (m, n)
    torch.testing.assert_close(ours, by_decomposition(matrix).float(), rtol=1e-3, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), SEEDS, st.sampled_from(["float32", "bfloat16"]))
def test_orthogonalize_leaves_singular_values_of_about_one(m, n, seed, dtype):
    """And the directions: with the decomposition U S Vᵀ, the result is U (about 1) Vᵀ."""
    matrix = parameters([(m, n)], seed)[0].detach()
    U, values, Vt = torch.linalg.svd(matrix, full_matrices=False)
    ours = orthogonalize(matrix.to(getattr(torch, dtype))).float()
    inside = U.mT @ ours @ Vt.mT  # diagonal where the directions are kept
    slack = 1e-3 if dtype == "float32" else 0.15
    smallest = values.norm() * (0.002 if dtype == "float32" else 0.03)
    lengths = inside.diagonal()[values > smallest]
    assert lengths.min() > 0.68 - slack
    assert lengths.max() < 1.21 + slack
    off_diagonal = inside - inside.diagonal().diag()
    assert off_diagonal.abs().max() < slack * 2


def test_orthogonalize_takes_a_stack_and_a_zero():
    stack = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    stack[1, 1] = 0
    together = orthogonalize(stack)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], orthogonalize(stack[i, j]))
    assert torch.equal(together[1, 1], torch.zeros(5, 4))
    assert orthogonalize(stack.bfloat16()).dtype == torch.bfloat16


# --- Muon ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(MATRICES, SEEDS, st.integers(1, 6), st.floats(0, 0.5), st.floats(0, 0.99))
def test_muon_is_torch_s_in_float32(shapes, seed, n_steps, decay, momentum):
    """torch's products are in bfloat16; here the exact polynomial takes their place."""
    options = {"lr": 0.02, "momentum": momentum, "weight_decay": decay}
    ours, theirs = parameters(shapes, seed), parameters(shapes, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.optim._muon,
            "_zeropower_via_newtonschulz",
            lambda grad, *_: by_decomposition(grad).float(),
        )
        run(torch.optim.Muon(theirs, **options), theirs, n_steps, seed)
    run(Muon(ours, **options), ours, n_steps, seed)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * n_steps)


@settings(deadline=None, max_examples=40)
@given(MATRICES, SEEDS, st.integers(1, 4), st.floats(0, 0.5))
def test_muon_is_torch_s_in_bfloat16(shapes, seed, n_steps, decay):
    """As torch runs it: the two differ in the order of a sum, by a last bit of bfloat16 or two."""
    options = {"lr": 0.02, "weight_decay": decay}
    ours, theirs = parameters(shapes, seed), parameters(shapes, seed)
    run(torch.optim.Muon(theirs, **options), theirs, n_steps, seed)
    run(Muon(ours, dtype=torch.bfloat16, **options), ours, n_steps, seed)
    for a, b in zip(ours, theirs, strict=True):
        step = 0.02 * math.sqrt(max(1, a.shape[0] / a.shape[1]))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0.02 * n_steps * step)


def test_muon_moves_equally_far_in_all_directions():
    p = torch.zeros(4, 4, requires_grad=True)
    p.grad = torch.diag(torch.tensor([100.0, 10.0, 3.0, 1.0]))
    Muon([p], lr=0.1).step()
    assert ((-p.diagonal() > 0.068) & (-p.diagonal() < 0.121)).all()


def test_muon_is_for_matrices():
    with pytest.raises(ValueError, match=r"shape \(3,\) is not a matrix.*AdamW"):
        Muon(parameters([(2, 2), (3,)], 0))
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2\)"):
        Muon(parameters([(2, 2, 2)], 0))
