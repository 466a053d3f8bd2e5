"""FactoredMatrix and composition scores, against the product itself and against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformer_lens
import transformer_lens.utils
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_widgets import FactoredMatrix
from tl_widgets.errors import BadInput, BadType
from tl_widgets.math.composition import composition_scores

CLOSE = dict(atol=1e-4, rtol=1e-4)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, **CLOSE)


def factors(*leading, ldim=5, mdim=4, rdim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*leading, ldim, mdim, generator=generator), torch.randn(
        *leading, mdim, rdim, generator=generator
    )


SHAPES = {
    "one matrix": factors(),
    "leading dims": factors(2, 3),
    "square": factors(2, ldim=5, rdim=5),
    "inner dimension larger than rows": factors(ldim=3, mdim=5, rdim=4),
    "inner dimension largest of all": factors(2, ldim=6, mdim=7, rdim=4),
}


@pytest.mark.parametrize("pair", SHAPES.values(), ids=SHAPES.keys())
def test_everything_that_has_one_answer_equals_the_oracles(pair):
    ours, theirs = FactoredMatrix(*pair), transformer_lens.FactoredMatrix(*pair)
    assert ours.shape == theirs.shape and ours.ndim == theirs.ndim
    assert (ours.ldim, ours.mdim, ours.rdim) == (theirs.ldim, theirs.mdim, theirs.rdim)
    assert ours.has_leading_dims == theirs.has_leading_dims
    assert repr(ours) == repr(theirs)
    for name in ("AB", "S"):
        close(getattr(ours, name), getattr(theirs, name))
    for mine, yours in zip(ours.pair, theirs.pair, strict=True):
        close(mine, yours)
    close(ours.norm(), theirs.norm())
    close(ours.get_corner(), theirs.get_corner())
    close(ours.get_corner(2), theirs.get_corner(2))
    close((ours.T).AB, theirs.AB.mT)
    # Singular vectors have a sign, and these a rotation, that nothing fixes.
    for name in ("U", "V", "Vh"):
        close(getattr(ours, name).abs(), getattr(theirs, name).abs())
    close(ours.collapse_l().abs(), theirs.collapse_l().abs())
    close(ours.collapse_r().abs(), theirs.collapse_r().abs())
    for mine, yours in zip(ours.make_even().pair, theirs.make_even().pair, strict=True):
        close(mine.abs(), yours.abs())


@pytest.mark.parametrize("pair", SHAPES.values(), ids=SHAPES.keys())
def test_decompositions_are_those_of_the_product(pair):
    M = FactoredMatrix(*pair)
    U, S, V = M.svd()
    close(U @ torch.diag_embed(S) @ V.mT, M.AB)
    eye = torch.eye(S.shape[-1]).expand(*S.shape, -1)
    close(U.mT @ U, eye)
    close(V.mT @ V, eye)
    close(M.make_even().AB, M.AB)
    close(M.collapse_l().mT @ M.collapse_l(), M.AB.mT @ M.AB)
    close(M.collapse_r() @ M.collapse_r().mT, M.AB @ M.AB.mT)
    close(M.norm(), torch.linalg.matrix_norm(M.AB))


def test_nothing_as_large_as_the_product_is_ever_made():
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(t, torch.Tensor):
                    self.numel = max(self.numel, t.numel())
            return out

    M = FactoredMatrix(*factors(ldim=200, mdim=4, rdim=200))
    with Largest() as largest:
        M.svd(), M.eigenvalues, M.norm(), M.make_even(), M.collapse_l(), M.collapse_r(), M @ M, M @ torch.ones(200)
        M.T, M[3], M[:, 5], 2 * M, M.get_corner(), composition_scores(M, M)
    assert 0 < largest.numel <= 800
    with Largest() as largest:
        M.AB  # noqa: B018
    assert largest.numel == 40_000


def test_eigenvalues_are_the_largest_of_the_product():
    A, B = factors(2, ldim=5, rdim=5)
    M = FactoredMatrix(A, B)
    assert M.eigenvalues.shape == (2, 4)
    for mine, whole in zip(M.eigenvalues, torch.linalg.eigvals(M.AB), strict=True):
        whole = whole[whole.abs().argsort(descending=True)][:4]
        distances = (mine[:, None] - whole[None]).abs()
        assert distances.min(0).values.max() < 1e-4 and distances.min(1).values.max() < 1e-4
    close(M.BA, B @ A)
    with pytest.raises(BadInput, match="square"):
        FactoredMatrix(*factors()).eigenvalues  # noqa: B018


def test_leading_dimensions_broadcast():
    A, B = torch.randn(2, 1, 5, 4), torch.randn(3, 4, 6)
    M = FactoredMatrix(A, B)
    assert M.shape == (2, 3, 5, 6) and M.A.shape == (2, 3, 5, 4) and M.B.shape == (2, 3, 4, 6)
    close(M.AB, A @ B)
    close(M[1, 2].AB, A[1, 0] @ B[2])


@pytest.mark.parametrize("pair", SHAPES.values(), ids=SHAPES.keys())
def test_products_with_vectors_and_matrices(pair):
    M = FactoredMatrix(*pair)
    right, left = torch.randn(M.rdim), torch.randn(M.ldim)
    close(M @ right, M.AB @ right)
    close(left @ M, (M.AB.mT @ left))
    wide, tall = torch.randn(M.rdim, 9), torch.randn(9, M.ldim)
    assert isinstance(M @ wide, FactoredMatrix) and isinstance(tall @ M, FactoredMatrix)
    close((M @ wide).AB, M.AB @ wide)
    close((tall @ M).AB, tall @ M.AB)
    many = torch.randn(7, *(1,) * (M.ndim - 2), M.rdim, 2)
    close((M @ many).AB, M.AB @ many)


@pytest.mark.parametrize("other_mdim", [2, 4, 8])
def test_a_product_of_two_keeps_the_smaller_inner_dimension(other_mdim):
    M = FactoredMatrix(*factors(2, 3))
    other = FactoredMatrix(*factors(3, ldim=6, mdim=other_mdim, rdim=7, seed=1))
    product = M @ other
    assert product.mdim == min(4, other_mdim)
    assert product.shape == (2, 3, 5, 7)
    close(product.AB, M.AB @ other.AB)
    theirs = transformer_lens.FactoredMatrix(*M.pair) @ transformer_lens.FactoredMatrix(*other.pair)
    assert [t.shape for t in product.pair] == [t.shape for t in theirs.pair]


@pytest.mark.parametrize("scalar", [3, -0.5, np.float32(2), torch.tensor(2.0), torch.tensor([2.0])], ids=repr)
def test_scaling_from_both_sides(scalar):
    M = FactoredMatrix(*factors(2))
    for scaled in (scalar * M, M * scalar):
        assert isinstance(scaled, FactoredMatrix) and scaled.shape == M.shape
        close(scaled.AB, M.AB * float(scalar))


INDICES = [
    0, -1, (0, 1), (0, 1, 2), (0, 1, 2, 3), (slice(None), 1, slice(0, 2)), (..., 3), ..., (..., [1, 2], 0),
    ([0, 1],), torch.tensor([1, 0]), (0, 0, [1, 2], [1, 2, 0]), (0, 0, -1, -1), None, (None, 0), (1, ..., slice(2)),
    (torch.tensor([[True, False, True], [False, True, False]]),), (slice(None), slice(None), torch.tensor(2)),
    (np.int64(1), slice(None), np.array([0, 4])), (0, [0, 2], slice(1, 3)), (0, 2, slice(None, None, 2)),
    (slice(None), slice(None), torch.tensor([True, False, True, False, True])),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indexing_is_that_of_the_product_but_keeps_rows_and_columns(index):
    M = FactoredMatrix(*factors(2, 3))
    picked = M[index]
    assert isinstance(picked, FactoredMatrix) and picked.mdim == 4
    # The product's way: leading dimensions first, then rows, then columns, an int as a slice of one.
    parts = list(index) if isinstance(index, tuple) else [index]
    used = sum(0 if p is None or p is ... else getattr(p, "ndim", 1) if getattr(p, "dtype", 0) == torch.bool else 1
               for p in parts)  # fmt: skip
    gap = next((i for i, p in enumerate(parts) if p is ...), len(parts))
    parts = parts[:gap] + [slice(None)] * (4 - used) + parts[gap + 1 :]
    *leading, row, column = ([p] if isinstance(p, int) and i >= len(parts) - 2 else p for i, p in enumerate(parts))
    row, column = ([int(p)] if isinstance(p, torch.Tensor) and p.ndim == 0 else p for p in (row, column))
    expected = M.AB[tuple(leading)] if leading else M.AB
    close(picked.AB, expected[..., row, :][..., column])


@given(
    st.lists(
        st.one_of(st.integers(-2, 1), st.slices(2).filter(lambda s: (s.step or 1) > 0), st.just(slice(None))),
        max_size=4,
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_index_of_ints_and_slices(parts, with_gap):
    M = FactoredMatrix(*factors(2, 2, ldim=2, mdim=3, rdim=2))
    index = (*parts[:-2], ..., *parts[-2:]) if with_gap and len(parts) == 4 else tuple(parts)
    kept = [[p] if isinstance(p, int) and i >= 2 else p for i, p in enumerate(parts)]
    expected = M.AB
    for axis in reversed(range(len(kept))):
        expected = expected[(slice(None),) * axis + (kept[axis],)]
    close(M[index].AB, expected)


def test_indices_out_of_range():
    M = FactoredMatrix(*factors(2, 3))
    for index in ((0, 0, 5), (0, 0, 0, -7), (7,), (0, 0, 0, 0, 0)):
        with pytest.raises(IndexError):
            M[index]
    with pytest.raises(ValueError, match="too many"):
        M[0, 0, 0, 0, 0]
    with pytest.raises(BadInput, match="unsqueeze"):
        M[..., None]
    assert [head.shape for head in M] == [(3, 5, 6)] * 2


def test_unsqueeze():
    ours, theirs = (kind(*factors(2, 3)) for kind in (FactoredMatrix, transformer_lens.FactoredMatrix))
    for k in (0, 1, 2, -3, -4, -5):
        assert ours.unsqueeze(k).shape == theirs.unsqueeze(k).shape
        close(ours.unsqueeze(k).AB, ours.AB.unsqueeze(k))
    for k in (-1, -2, 3, 4):
        with pytest.raises(BadInput, match="part the rows"):
            ours.unsqueeze(k)


def test_mismatched_shapes_say_which_and_how_they_would_fit():
    with pytest.raises(BadInput, match=r"4 and 5: A is \[5, 4\], B is \[5, 4\]\. \.transpose\(-2, -1\) on B would fit"):
        FactoredMatrix(torch.ones(5, 4), torch.ones(5, 4))
    with pytest.raises(BadInput, match=r"\.transpose\(-2, -1\) on A would fit"):
        FactoredMatrix(torch.ones(4, 5), torch.ones(4, 6))
    with pytest.raises(BadInput) as nothing_fits:
        FactoredMatrix(torch.ones(5, 4), torch.ones(7, 9))
    assert "transpose" not in str(nothing_fits.value)
    with pytest.raises(BadInput, match=r"leading dimensions \[2\] and \[3\]"):
        FactoredMatrix(torch.ones(2, 5, 4), torch.ones(3, 4, 5))
    W_Q, W_K = torch.ones(12, 768, 64), torch.ones(12, 768, 64)
    with pytest.raises(BadInput, match=r"\.T on a 3-D tensor reverses.*B.*\.transpose\(-2, -1\)"):
        FactoredMatrix(W_Q, W_K.permute(2, 1, 0))  # what W_K.T is
    M = FactoredMatrix(*factors())
    for product in (
        lambda: M @ torch.ones(5, 6),
        lambda: torch.ones(5, 2) @ M,
        lambda: M @ M,
        lambda: M @ torch.ones(5),
        lambda: torch.ones(6) @ M,
        lambda: M @ torch.tensor(2.0),
    ):
        with pytest.raises(AssertionError, match=r"dimensions differ|does not meet|use \*"):
            product()
    with pytest.raises(BadInput, match=r"\.T on the right"):
        M @ M
    with pytest.raises(BadInput, match="use @"):
        M * torch.ones(5)
    for mistake in (lambda: M * "a", lambda: M @ [1.0], lambda: FactoredMatrix([[1.0]], torch.ones(1, 1))):
        with pytest.raises(TypeError):
            mistake()
    with pytest.raises(BadInput, match=r"\[4\]"):
        FactoredMatrix(torch.ones(4), torch.ones(4, 5))


def test_gradients_reach_the_factors():
    A, B = (t.double().requires_grad_() for t in factors())
    for of in (lambda M: M.norm(), lambda M: M.S.sum(), lambda M: M.make_even().AB[0, 0], lambda M: (M @ M.T).norm()):
        assert torch.autograd.gradcheck(lambda a, b, of=of: of(FactoredMatrix(a, b)), (A, B))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    A, B = (t.to(dtype) for t in factors(ldim=5, rdim=5))
    M, exact = FactoredMatrix(A, B), FactoredMatrix(A.float(), B.float())
    assert M.S.dtype == M.norm().dtype == M.collapse_l().dtype == dtype
    torch.testing.assert_close(M.S.float(), exact.S, rtol=2**-7, atol=0)  # as close as the numbers themselves are
    torch.testing.assert_close(M.norm().float(), exact.norm(), rtol=2**-5, atol=0)


def test_composition_scores_equal_the_oracles():
    left, right = factors(2, 3, ldim=5, rdim=5), factors(7, 1, ldim=5, mdim=3, rdim=6, seed=1)
    ours = composition_scores(FactoredMatrix(*left), FactoredMatrix(*right))
    assert ours.shape == (2, 3, 7, 1)
    theirs = transformer_lens.utils.composition_scores(
        transformer_lens.FactoredMatrix(*left), transformer_lens.FactoredMatrix(*right)
    )
    close(ours, theirs)
    L, R = FactoredMatrix(*left).AB, FactoredMatrix(*right).AB
    by_hand = (L[1, 2] @ R[4, 0]).norm() / L[1, 2].norm() / R[4, 0].norm()
    close(ours[1, 2, 4, 0], by_hand)


@pytest.mark.parametrize("right_leading", [(3,), (), (2, 3), (2, 1)], ids=str)
def test_composition_scores_matched_by_broadcasting(right_leading):
    left = FactoredMatrix(*factors(2, 3, ldim=5, rdim=5))
    right = FactoredMatrix(*factors(*right_leading, ldim=5, mdim=3, rdim=6, seed=1))
    scores = composition_scores(left, right, broadcast_dims=False)
    assert scores.shape == (2, 3)
    norm = torch.linalg.matrix_norm
    close(scores, norm(left.AB @ right.AB) / norm(left.AB) / norm(right.AB))
    assert composition_scores(left, right).shape == (2, 3, *right_leading)


def test_composition_scores_of_single_matrices_and_mistakes():
    left, right = FactoredMatrix(*factors()), FactoredMatrix(*factors(ldim=6, rdim=6))
    assert composition_scores(left, right).shape == ()
    with pytest.raises(BadInput, match=r"writes 6 dimensions and right reads 5.*right\.T"):
        composition_scores(left, FactoredMatrix(*factors()))
    with pytest.raises(BadType, match="FactoredMatrix"):
        composition_scores(left, torch.ones(6, 6))
