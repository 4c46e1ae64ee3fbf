"""A benchmark: a sentence for each trainer, a bar chart of the ratios, and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas
from matplotlib.axes import Axes

from nnunetv2_salstm.reporting.document import Block, Bullets, Document, Figure, Section, Table, Text, made_with
from nnunetv2_salstm.reporting.figures import COLOURS, new_figure, plain_style, to_svg

# Quantities by the names of their columns: what they are called for readers, and how a value is written.
QUANTITIES = {
    "parameters": ("parameters (M)", lambda value: f"{value / 1e6:.2f}"),
    "flops": ("GFLOPs of a tile", lambda value: f"{value / 1e9:.1f}"),
    "training_step": ("s / training step", lambda value: f"{value:.3g}"),
    "inference_tile": ("s / inference tile", lambda value: f"{value:.3g}"),
    "peak_memory": ("peak memory (MB)", lambda value: f"{value / 1e6:.0f}"),
    "first_step_seconds": ("s / first step", lambda value: f"{value:.3g}"),
}
CHARTED = ("training_step", "inference_tile", "peak_memory")
SUMMARISED = ("parameters", *CHARTED)
LONGEST_ERROR = 40


def bench_document(
    frame: pandas.DataFrame,
    summary: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    baseline: str,
    repeats: int,
    command: str,
    versions: Mapping[str, str],
    hardware: Mapping[str, str | int],
) -> Document:
    """Returns the document about a benchmark.

    Args:
        frame: a row for each plan and trainer: plan, trainer, patch_size, batch_size, compiled, error, and of each
            quantity its value and, against the baseline, QUANTITY_ratio, QUANTITY_low and QUANTITY_high.
        summary: by trainer and quantity, mean and worst ratio over the plans.
        baseline: the trainer that ratios are to.
        repeats: timed rounds.
        command: that made it.
        versions, hardware: it was made with.
    """
    chart = _chart(frame, baseline)
    blocks: list[Block] = [
        Bullets([_sentence(trainer, ratios) for trainer, ratios in summary.items()], highlight=True),
        Figure(svg=chart, alt="Bar chart of the ratios to the stock network by plan and trainer")
        if chart
        else Text(f"Without {baseline} there are no ratios."),
        bench_table(frame, baseline),
        Section("What the numbers mean", [Bullets(_notes(baseline, repeats))]),
    ]
    return Document("Time and memory against the stock network", blocks, made_with(command, hardware, versions))


def bench_table(frame: pandas.DataFrame, baseline: str) -> Table:
    """Returns the table of a benchmark's frame, see `bench_document`."""
    quantities = [name for name in QUANTITIES if name != "first_step_seconds" or frame["compiled"].eq(True).any()]
    rows = []
    for row in frame.to_dict("records"):
        batch = "-" if pandas.isna(row["batch_size"]) else int(row["batch_size"])
        cells = [_cell(row, quantity, baseline) for quantity in quantities]
        if not pandas.isna(row["error"]):
            cells = [_shortened(row["error"]), *[None] * (len(quantities) - 1)]
        rows.append(
            [row["plan"], f"{batch} x {'x'.join(map(str, row['patch_size']))}", short_name(row["trainer"]), *cells]
        )
    columns = ["plan", "batch", "trainer", *(QUANTITIES[quantity][0] for quantity in quantities)]
    return Table(pandas.DataFrame(rows, columns=columns), text_columns=3)


def short_name(trainer: str) -> str:
    """Returns a trainer's name without what all share."""
    return trainer.removeprefix("nnUNetTrainer") or trainer


def _cell(row: Mapping[Any, Any], quantity: str, baseline: str) -> str | None:
    if pandas.isna(row[quantity]):
        return None
    text = QUANTITIES[quantity][1](row[quantity])
    ratio, low, high = (row[f"{quantity}_{name}"] for name in ("ratio", "low", "high"))
    if row["trainer"] == baseline or pandas.isna(ratio):
        return text
    return f"{text} (x {ratio:.2f})" if pandas.isna(low) else f"{text} (x {ratio:.2f}, {low:.2f}-{high:.2f})"


def _shortened(error: str) -> str:
    return error if len(error) < LONGEST_ERROR else f"{error[: LONGEST_ERROR - 3]}..."


def _sentence(trainer: str, ratios: Mapping[str, Mapping[str, float]]) -> str:
    parts = [
        f"{_name(quantity)} {ratios[quantity]['mean']:.3f} (worst {ratios[quantity]['worst']:.3f})"
        for quantity in SUMMARISED
        if quantity in ratios
    ]
    return f"{trainer}, mean ratios over the plans: {', '.join(parts)}."


def _name(quantity: str) -> str:
    return QUANTITIES[quantity][0].removeprefix("s / ").partition(" (")[0]


def _notes(baseline: str, repeats: int) -> list[str]:
    return [
        f"Times: medians of {repeats} rounds in which the trainers took turns in one process. In brackets: the ratio "
        f"to {baseline}, and for times the smallest and largest ratio of a single round.",
        "Training step: forward, loss with deep supervision, backward, gradient clipping and optimiser, by nnU-Net's "
        "own code on synthetic data. Inference tile: forward of one patch without deep supervision.",
        "Peak memory: what building the network and two training steps added, on the CPU to the resident memory of a "
        "fresh process, on CUDA to the memory of tensors. GFLOPs: of convolutions and matrix products in the forward "
        "pass.",
    ]


@plain_style
def _chart(frame: pandas.DataFrame, baseline: str) -> str:
    """Returns the bar chart as SVG, empty if there is no ratio."""
    others = frame[frame["trainer"] != baseline]
    charted = [quantity for quantity in CHARTED if others[f"{quantity}_ratio"].notna().any()]
    if not charted:
        return ""
    plans, trainers = list(frame["plan"].unique()), list(others["trainer"].unique())
    figure = new_figure(12, 1.2 + len(plans) * (0.24 * len(trainers) + 0.2))
    for axes, quantity in zip(figure.subplots(1, len(charted), sharey=True, squeeze=False)[0], charted, strict=True):
        _draw(axes, others, plans, trainers, quantity)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
    return to_svg(figure)


def _draw(axes: Axes, frame: pandas.DataFrame, plans: Sequence[str], trainers: Sequence[str], quantity: str) -> None:
    thickness = 0.8 / len(trainers)
    for index, trainer in enumerate(trainers):
        known = frame[(frame["trainer"] == trainer) & frame[f"{quantity}_ratio"].notna()]
        places = known["plan"].map(plans.index) + (index - (len(trainers) - 1) / 2) * thickness
        ratio, low, high = (known[f"{quantity}_{name}"].astype(float) for name in ("ratio", "low", "high"))
        axes.barh(places, ratio, thickness * 0.9, color=COLOURS[index % len(COLOURS)], label=short_name(trainer))
        if low.notna().any():
            # Half of the range lies outside of the median's ratio at times; a bar cannot end before it begins.
            errors = [(ratio - low).clip(lower=0), (high - ratio).clip(lower=0)]
            axes.errorbar(ratio, places, xerr=errors, fmt="none", ecolor="#333", elinewidth=1)
        for place, value in zip(places, ratio, strict=True):
            axes.text(0.02, place, f"{value:.2f}", va="center", color="white", fontsize=8)
    axes.axvline(1, color="#333", linewidth=1)
    axes.set_yticks(range(len(plans)), plans)
    axes.invert_yaxis()
    axes.set_title(_name(quantity), loc="left")
    axes.set_xlabel("ratio to the stock network")
    axes.spines[["top", "right"]].set_visible(False)
