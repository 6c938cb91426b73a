import pytest

from lightning_app.models.schedule import lr_factor


@pytest.mark.parametrize("total", [10, 100, 1000, 1_000_000])
def test_step_divides_by_10_at_50_70_and_90_percent_whatever_the_number_of_steps(total: int) -> None:
    edges = {0: 1.0, total // 2 - 1: 1.0, total // 2: 0.1, total * 7 // 10 - 1: 0.1, total * 7 // 10: 0.01,
             total * 9 // 10 - 1: 0.01, total * 9 // 10: 0.001, total - 1: 0.001}  # fmt: skip
    for step, factor in edges.items():
        assert lr_factor(step, total) == pytest.approx(factor), step


def test_warmup_rises_linearly_then_follows_the_schedule() -> None:
    factors = [lr_factor(step, 100, "step", warmup=0.1) for step in range(100)]
    rises = [b - a for a, b in zip(factors[:9], factors[1:10], strict=True)]
    assert factors[0] > 0
    assert max(rises) == pytest.approx(min(rises))
    assert factors[10:50] == [1.0] * 40
    assert factors[50] == pytest.approx(0.1)


def test_one_cycle_rises_to_1_and_falls_to_its_end() -> None:
    factors = [lr_factor(step, 1000, "one_cycle") for step in range(1001)]
    assert factors.index(max(factors)) == 250
    assert max(factors) == pytest.approx(1)
    assert all(a <= b for a, b in zip(factors[:250], factors[1:251], strict=True))
    assert all(a >= b for a, b in zip(factors[250:-1], factors[251:], strict=True))
    assert factors[-1] == pytest.approx(1e-3)
    assert factors[625] == pytest.approx((1 + 1e-3) / 2)  # half way down the half cosine


def test_cosine_and_constant() -> None:
    assert lr_factor(50, 100, "cosine") == pytest.approx((1 + 1e-3) / 2)
    assert {lr_factor(step, 100, "constant") for step in range(100)} == {1.0}
