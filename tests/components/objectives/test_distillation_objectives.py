"""Every term of distillation: least where student and teacher agree, no gradient for the teacher, a true one for the student."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.config import ConfigError
from components.objectives import distillation as terms
from components.objectives.contrastive import info_nce

WIDTH, ROWS = 6, 5


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(_draw(*shape, seed=seed), dim=-1)


REAL = torch.arange(4) < torch.tensor([4, 3, 2])[:, None]
QUEUE = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]).double()
SPREAD = F.normalize(torch.eye(ROWS, WIDTH).double() - torch.eye(ROWS, WIDTH).mean(dim=0), dim=1)
"""A regular simplex: as far apart as rows can be, where a contrastive term has its least."""
OTHER = _unit(ROWS, WIDTH, seed=9)

TERMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
    "logit_kl": (lambda s, t: terms.logit_kl(s, t, 2.0), _draw(ROWS, WIDTH)),
    "kept_kl": (
        lambda s, t: terms.kept_kl(s, t.softmax(1).topk(4).values, t.softmax(1).topk(4).indices),
        _draw(ROWS, WIDTH),
    ),
    "affinity of images": (
        lambda s, t: terms.affinity(s, OTHER, t, OTHER, 5.0, 5.0),
        _unit(ROWS, WIDTH),
    ),
    "affinity of texts": (
        lambda s, t: terms.affinity(OTHER, s, OTHER, t, 5.0, 5.0),
        _unit(ROWS, WIDTH),
    ),
    "icl": (
        lambda s, t: terms.icl(F.normalize(s, dim=1), t.detach(), t, t, torch.tensor(9.0).double()),
        SPREAD,
    ),
    "feature mse": (terms.feature, _draw(ROWS, WIDTH)),
    "feature l1": (lambda s, t: terms.feature(s, t, "l1"), _draw(ROWS, WIDTH)),
    "squares": (terms.squares, _draw(ROWS, 3, WIDTH)),
    "attention": (
        lambda s, t: terms.attention(s, t, REAL),
        _draw(3, 4, WIDTH).softmax(dim=-1),
    ),
    "token_nce": (lambda s, t: terms.token_nce(s, t, QUEUE, 0.5), torch.eye(WIDTH).double()),
}
"""Name -> the term of (student, teacher), and a teacher."""


@pytest.fixture(params=sorted(TERMS))
def term(request: pytest.FixtureRequest) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    return TERMS[request.param]


def test_no_student_does_better_than_the_teacher_itself(
    term: tuple[Callable[[Tensor, Tensor], Tensor], Tensor],
) -> None:
    value, teacher = term
    least = value(teacher, teacher)
    for seed in range(20):
        for size in (0.01, 0.1, 1.0):
            other = teacher + size * _draw(*teacher.shape, seed=seed)
            if torch.allclose(teacher.norm(dim=-1), torch.ones(()).double()):
                other = F.normalize(other, dim=-1)
            assert value(other, teacher) >= least - 1e-12


@pytest.mark.parametrize(
    "name", ["logit_kl", "kept_kl", "feature mse", "feature l1", "squares", "attention"]
)
def test_a_term_of_distances_is_0_where_student_and_teacher_agree(name: str) -> None:
    value, teacher = TERMS[name]
    assert value(teacher, teacher).item() == pytest.approx(0, abs=1e-12)


def test_the_teacher_gets_no_gradient(
    term: tuple[Callable[[Tensor, Tensor], Tensor], Tensor],
) -> None:
    value, teacher = term
    student = _draw(*teacher.shape, seed=3).requires_grad_()
    teacher = teacher.clone().requires_grad_()
    value(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_the_students_gradient_is_that_of_finite_differences(
    term: tuple[Callable[[Tensor, Tensor], Tensor], Tensor],
) -> None:
    value, teacher = term
    student = (teacher + 0.3 * _draw(*teacher.shape, seed=4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: value(s, teacher), (student,))


def test_affinity_at_its_least_is_the_entropy_of_the_teachers_spread() -> None:
    image, text = _unit(ROWS, WIDTH, seed=1), _unit(ROWS, WIDTH, seed=2)
    rows, columns = ((4.0 * image @ text.T).softmax(dim) for dim in (1, 0))
    entropy = -(rows * rows.log()).sum() / ROWS - (columns * columns.log()).sum() / ROWS
    found = terms.affinity(image, text, image, text, 4.0, 4.0)
    torch.testing.assert_close(found, entropy / 2)


def test_affinity_asks_for_the_same_spread_in_spaces_of_different_width() -> None:
    teacher_image, teacher_text = _unit(ROWS, 9, seed=1), _unit(ROWS, 9, seed=2)
    student = _unit(ROWS, WIDTH, seed=3)
    assert terms.affinity(student, student, teacher_image, teacher_text, 4.0, 8.0).isfinite()


def test_icl_of_the_teacher_itself_is_its_own_contrastive_loss() -> None:
    image, text = _unit(ROWS, WIDTH, seed=1), _unit(ROWS, WIDTH, seed=2)
    scale, groups = torch.tensor(7.0).double(), torch.tensor([0, 1, 0, 3, 4])
    found = terms.icl(image, text, image, text, scale, groups)
    torch.testing.assert_close(found, info_nce(image, text, scale, groups))


def test_raw_icl_multiplies_by_the_logarithm_of_the_scale() -> None:
    image, text = _unit(ROWS, WIDTH, seed=1), _unit(ROWS, WIDTH, seed=2)
    scale = torch.tensor(14.3).double()
    raw = terms.icl(image, text, image, text, scale, how="raw")
    torch.testing.assert_close(raw, terms.icl(image, text, image, text, scale.log()))
    # The quirk: a scale of 2.66 hardly tells a pair that fits from the others.
    assert terms.icl(SPREAD, SPREAD, SPREAD, SPREAD, scale, how="raw") > 0.1
    assert terms.icl(SPREAD, SPREAD, SPREAD, SPREAD, scale) < 0.001


def test_a_higher_temperature_keeps_the_size_of_small_gradients() -> None:
    student, teacher = (0.01 * _draw(ROWS, WIDTH, seed=seed) for seed in (1, 2))
    sharp, soft = (
        torch.autograd.grad(terms.logit_kl(s, teacher, t), s)[0]
        for t in (1.0, 4.0)
        for s in [student.clone().requires_grad_()]
    )
    torch.testing.assert_close(sharp, soft, rtol=0.05, atol=0)


def test_rows_are_compared_where_both_have_the_token() -> None:
    ours_at = torch.tensor([[True, True, False], [False, True, True]])
    theirs_at = torch.tensor([[False, True], [True, True]])
    ours, theirs = terms.at_both(
        torch.tensor([[1.0], [2.0], [3.0], [4.0]]), ours_at,
        torch.tensor([[20.0], [11.0], [30.0]]), theirs_at,
    )  # fmt: skip
    assert ours.tolist() == [[2.0], [3.0]]
    assert theirs.tolist() == [[20.0], [30.0]]


def test_the_kl_of_64_kept_words_is_within_the_rests_share_of_the_whole() -> None:
    teacher, student = 2.5 * _draw(40, 2000, seed=5), 2.5 * _draw(40, 2000, seed=6)
    p, q = teacher.softmax(1), student.softmax(1)
    kept_NK, index_NK = terms.keep_likeliest(teacher)
    found = terms.kept_kl(student, kept_NK.double(), index_NK)
    whole = terms.logit_kl(student, teacher)
    hidden = torch.ones_like(p).scatter(1, index_NK.long(), 0.0)
    within = (
        hidden
        * p
        * (
            (p / (p * hidden).sum(1, keepdim=True)).log()
            - (q / (q * hidden).sum(1, keepdim=True)).log()
        )
    )
    lost = within.sum(1).mean()  # the rest's share, times the KL within the rest
    assert lost > 0.05  # else nothing is tested
    torch.testing.assert_close(found + lost, whole, rtol=0, atol=2e-3)  # float16's part of it


def test_all_words_kept_is_the_whole_kl() -> None:
    teacher, student = _draw(7, 30, seed=5), _draw(7, 30, seed=6)
    kept = terms.keep_likeliest(teacher, 2.0)
    torch.testing.assert_close(
        terms.kept_kl(student, *kept, 2.0), terms.logit_kl(student, teacher, 2.0), rtol=0, atol=4e-3
    )


def test_an_empty_queue_has_nothing_to_tell_apart() -> None:
    states = _draw(3, WIDTH)
    assert terms.token_nce(states, -states, torch.zeros(8, WIDTH).double()).item() == 0


def test_a_row_is_shown_the_rows_after_it_and_its_own_group_only_where_there_are_no_others() -> (
    None
):
    groups = torch.tensor([0, 1, 2, 1, 3])
    assert terms.others(groups, 2).tolist() == [[1, 2], [2, 4], [3, 4], [4, 0], [0, 1]]
    assert terms.others(groups, 4).tolist()[1] == [2, 4, 0, 3]
    alike = torch.zeros(3, dtype=torch.long)
    assert terms.others(alike, 2).tolist() == [[1, 2], [2, 0], [0, 1]]
    with pytest.raises(ConfigError, match=r"shots=3 .* has 3; fewer shots"):
        terms.others(alike, 3)


def test_over_no_rows_a_divergence_is_0_and_no_nan():
    nothing = torch.zeros(0, 80)
    assert terms.logit_kl(nothing, nothing).item() == 0
    assert terms.kept_kl(nothing, *terms.keep_likeliest(nothing)).item() == 0
