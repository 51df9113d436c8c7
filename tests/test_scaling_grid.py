"""The table of small models: complete, and measured again by one command that can be stopped."""

import itertools

import pytest

from course_utils import corpora
from tools import scaling_grid


def test_the_table_is_complete_and_larger_is_better():
    rows = corpora.load_table("scaling-grid")
    assert len(rows) == len(scaling_grid.SIZES) * len(scaling_grid.TOKENS) * len(scaling_grid.SEEDS)
    loss = {
        tuple(int(row[k]) for k in scaling_grid.COLUMNS[:5]): float(row["loss"]) for row in rows
    }
    assert len(loss) == len(rows)
    by_size = sorted(loss, key=lambda run: (run[3], run[4], run[2]))
    for smaller, larger in itertools.pairwise(by_size):
        if smaller[3:] == larger[3:]:  # as many tokens, the same seed
            assert loss[larger] < loss[smaller]


def test_a_stopped_measurement_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling_grid, "TABLE", tmp_path / "scaling" / "grid.csv")
    scaling_grid.main(sizes=((1, 16),), lengths=(20_000,), seeds=(0,))
    (row,) = scaling_grid.read_table()
    assert int(row["parameters"]) == 5232 and int(row["tokens"]) == 20_480
    assert 2.5 < float(row["loss"]) < 4.2
    scaling_grid.main(sizes=((1, 16), (1, 32)), lengths=(20_000,), seeds=(0,))
    again, other = scaling_grid.read_table()
    assert again == row and int(other["n_embd"]) == 32
    assert capsys.readouterr().out.count("seed 0") == 2


def test_heads_are_sixteen_channels_wide():
    from course_utils.recipes import scaled

    build, plan = scaled(65, n_layer=3, n_embd=48, tokens=1_000_000)
    assert (build.n_layer, build.n_head, build.n_embd) == (3, 3, 48)
    assert plan.steps * plan.batch_size * build.block_size == pytest.approx(1e6, rel=0.01)
    assert plan.warmup_steps == plan.steps // 10
