"""What the modules of one model or two do: sentences, figures by stage, maps, attention matrices and gates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas

from nnunetv2_salstm.reporting.document import Block, Bullets, Document, Figure, Section, Table, Text, made_with
from nnunetv2_salstm.reporting.inspection_figures import (
    DIRECTIONS,
    GATES,
    draw_attention,
    draw_contributions,
    draw_gates,
    draw_matrices,
    draw_sparsity,
)

NOTES = (
    "Without the modules: the same trained network, modules switched off so that each returns its skip; predicted as "
    "nnU-Net does, without mirroring. Dice is the mean over labels, then over cases.",
    "Stage 0 is the full resolution; the last stage is the bottleneck. Lines and tables are means over the cases, "
    "bands reach from the smallest to the largest case.",
    "L1-norm sparsity is Hoyer's: (√n - |x|₁ / |x|₂) / (√n - 1) for each channel's map of n values, 0 if all "
    "magnitudes are equal, 1 if all but one value are zero.",
    "Contribution: |block(x) - x|₂ / |x|₂ of the skip x. In maps: |block(x) - x|₂ over the channels of a voxel, in "
    "units of the root mean square of |x|₂, over the case as the network reads it: from transparent at 0 to bright at "
    "the panel's largest value, which its title gives.",
    "An attention matrix is C x C, its rows sum to 1. Entropy is the rows' divided by log C. Distances are total "
    "variations, means over the rows: 0 is equal, 1 is disjoint.",
    "Ranks are effective ones, the exponential of the entropy of the singular values' shares: of A, 1 if all rows are "
    "alike and C if each takes another channel; of Y = A V as a share of V's.",
    "Pairs in the table are the forward and the reverse direction's.",
    "Saturated are values of i, f, o below 0.05 or above 0.95, and of g below -0.95 or above 0.95.",
)


def inspection_document(
    frame: pandas.DataFrame,
    about: Sequence[Mapping[str, Any]],
    matrices: Mapping[str, Mapping[tuple[int, str], np.ndarray]],
    maps: Mapping[str, bytes],
    words: Sequence[str],
    losses: Mapping[str, pandas.DataFrame],
    *,
    images: str,
    collapsed: float,
    few: float,
    command: str,
    versions: Mapping[str, str | int],
) -> Document:
    """Returns the document about an inspection.

    Args:
        frame: a row for each model, case and stage, see `evaluation.inspection.ModelFindings.frame`.
        about: of each model its label, folder, trainer, plans, configuration, fold, checkpoint and modules.
        matrices: by model, the attention matrices by stage and direction, (C, C).
        maps: by case, the figure of the contributions, see `inspection_figures.draw_maps`.
        words: what was found.
        losses: by model, what is lost without its blocks, see `evaluation.identity_test.losses`.
        images: what was read.
        collapsed: distance below which an attention has collapsed.
        few: share of V's rank below which all rows attend to the same few channels.
        command: that made it.
        versions: and hardware, it was made with.
    """
    labels = list(frame["model"].unique())

    def section(title: str, *figures: tuple[str, bytes, str]) -> Section:
        return Section(title, [Figure(png=png, caption=text, file=f"{name}.png") for name, png, text in figures])

    blocks: list[Block] = [
        Table(pandas.DataFrame(about).drop(columns="folder"), text_columns=7),
        Text(f"Cases: {frame['case'].nunique()}, of `{images}`"),
        Bullets(words, highlight=True),
        section(
            "Sparsity",
            (
                "sparsity",
                draw_sparsity(frame),
                "Sparsity and mean absolute value against the stage; bands are the range over cases.",
            ),
        ),
    ]
    if losses:
        blocks.insert(3, Section("Without the modules", [loss_table(losses)]))
    if frame["module_magnitude"].notna().any():
        caption = "Norm of each module's contribution relative to its skip's."
        where = [(f"map_{case}", picture, f"{case}: where each module acts.") for case, picture in maps.items()]
        blocks.append(
            section("What the modules add", ("contribution", draw_contributions(frame), caption), *where),
        )
    if frame["forward_from_identity"].notna().any():
        caption = (
            "Within the grey bands the attention has collapsed: to the identity, to the uniform matrix, or to the "
            "same few channels for all rows."
        )
        each = [
            (
                f"matrices_{labels.index(label) + 1}",
                draw_matrices(frame[frame["model"] == label], found),
                f"{label}: attention matrices, means over slices and cases.",
            )
            for label, found in matrices.items()
            if found
        ]
        blocks.append(section("Attention", ("attention", draw_attention(frame, collapsed, few), caption), *each))
    if frame["i_mean"].notna().any():
        caption = "Values of the last step, both directions; below, how many are saturated."
        gates = Figure(png=draw_gates(frame), caption=caption, file="gates.png")
        blocks.append(Section("Gates", [gates, gate_table(frame)]))
    blocks += [
        Section("Numbers", [stage_table(frame)]),
        Section("What the numbers mean", [Bullets(NOTES)], folded=True),
    ]
    return Document(f"inspect: {' and '.join(labels)}", blocks, made_with(command, versions))


def loss_table(losses: Mapping[str, pandas.DataFrame]) -> Table:
    """Returns a row for each model and what was switched off: Dice, change in points, cases better and worse."""
    rows = [
        {
            "model": label,
            "switched off": f"stage {row['off']}" if row["off"].isdecimal() else row["off"],
            "Dice": _number(row["dice"]),
            "points": "" if row["off"] == "nothing" else f"{100 * row['change']:+.1f}",
            "cases better / worse by a point": ""
            if row["off"] == "nothing"
            else f"{row['better']} / {row['worse']} of {row['cases']}",
        }
        for label, table in losses.items()
        for row in table.to_dict("records")
    ]
    return Table(pandas.DataFrame(rows), text_columns=2)


def stage_table(frame: pandas.DataFrame) -> Table:
    """Returns a row for each model and stage: means over the cases, without columns of nothing."""
    means = _means(frame)
    table = means[["model", "stage"]].copy()
    for name, columns, show in (
        ("sparsity before", ["before_sparsity"], _number),
        ("after", ["after_sparsity"], _number),
        ("of the module", ["module_sparsity"], _number),
        ("contribution", ["contribution"], _percent),
        ("entropy", [f"{direction}_entropy" for direction in DIRECTIONS], _number),
        ("from identity", [f"{direction}_from_identity" for direction in DIRECTIONS], _number),
        ("from uniform", [f"{direction}_from_uniform" for direction in DIRECTIONS], _number),
        ("rank of A", [f"{direction}_rank" for direction in DIRECTIONS], _number),
        ("Y's of V's", [f"{direction}_rank_kept" for direction in DIRECTIONS], _number),
    ):
        if means[columns[0]].notna().any():
            rows = means[columns].itertuples(index=False)
            table[name] = [None if pandas.isna(row[0]) else " / ".join(map(show, row)) for row in rows]
    return Table(table)


def gate_table(frame: pandas.DataFrame) -> Table:
    """Returns the gates of each model and stage: mean, standard deviation and saturated shares, over the cases."""
    means = _means(frame)
    means = means[means["i_mean"].notna()]
    table = means[["model", "stage"]].copy()
    for gate in GATES:
        rows = means[[f"{gate}_{name}" for name in ("mean", "deviation", "low", "high")]].itertuples(index=False)
        table[f"{gate}: mean ± SD, low, high"] = [
            "-" if pandas.isna(mean) else f"{mean:.2f} ± {deviation:.2f}, {low:.0%}, {high:.0%}"
            for mean, deviation, low, high in rows
        ]
    return Table(table, text_columns=2)


def _means(frame: pandas.DataFrame) -> pandas.DataFrame:
    return frame.groupby(["model", "stage"], sort=False).mean(numeric_only=True).reset_index()


def _number(value: float) -> str:
    return "-" if pandas.isna(value) else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
