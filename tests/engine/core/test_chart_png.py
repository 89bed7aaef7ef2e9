"""Charts as PNG files: what is drawn, ticks of the axes, and who can read the file."""

from pathlib import Path

import numpy as np
import pytest

from engine.core import chart_png


def test_charts_are_png_files_for_their_owner(tmp_path: Path) -> None:
    from PIL import Image

    chart_png.stacked_bar_chart(
        tmp_path / "bars.png",
        title="t",
        unit="s",
        labels=["a", "b" * 60],
        parts={f"part {i}": [0.1 * i, 0.2] for i in range(12)},
        notes=["x", "y"],
    )
    chart_png.line_chart(
        tmp_path / "lines.png",
        title="t",
        across="x",
        upwards="y",
        series={"one": [(1, 2.0), (2, 3.0), (64, 9.0)], "flat": [(3, 0.0)]},
    )
    chart_png.line_chart(
        tmp_path / "ideal.png",
        title="t",
        across="nodes",
        upwards="tokens/s",
        series={"measured": [(1, 2.0), (8, 9.0)], "ideal": [(1, 2.0), (8, 16.0)]},
        by_logs=True,
        dashed=("ideal",),
    )
    with Image.open(tmp_path / "ideal.png") as image:
        plot = np.asarray(image.convert("RGB"), float)[97:489, 150:750]  # below the legend
        wanted = list(bytes.fromhex(chart_png.COLOURS[1][1:]))
        drawn = (np.abs(plot - wanted).max(axis=2) < 60).any(axis=0)
        assert 0.2 < drawn.mean() < 0.8  # dashes and gaps
        axis = image.convert("L").crop((10, 200, 40, 400))
        assert min(axis.getdata()) < 100  # the y axis has its name
    for name in ("bars.png", "lines.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width == chart_png.WIDTH and len(set(image.convert("RGB").resize((100, 50)).getdata())) > 20
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("largest", [1e-9, 0.07, 0.9, 1, 3.2, 8, 123, 4e9])
def test_ticks_are_round_few_and_reach_the_largest(largest: float) -> None:
    ticks = chart_png.ticks_to(largest)
    assert 3 <= len(ticks) <= 11 and ticks[0] == 0 and ticks[-1] >= 0.999 * largest and ticks[-2] < largest


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(3, 900, [2, 5, 10, 20, 50, 100, 200, 500, 1000]), (20, 20, [20, 50]), (0.004, 0.011, [0.002, 0.005, 0.01, 0.02])],
)
def test_ticks_of_a_logarithm_hold_every_value_between_them(low: float, high: float, wanted: list[float]) -> None:
    assert chart_png.log_ticks(low, high) == pytest.approx(wanted)
