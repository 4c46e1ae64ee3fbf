"""The inspection as a page for a browser, with its figures beside it."""

from collections.abc import Mapping
from html import escape
from urllib.parse import quote

from nnunetv2_salstm.page import html_figure, html_footer, html_list, html_page, html_table
from nnunetv2_salstm.reporting.inspection import Report
from nnunetv2_salstm.reporting.inspection_figures import (
    draw_attention,
    draw_contributions,
    draw_gates,
    draw_matrices,
    draw_sparsity,
)

NOTES = (
    "Stage 0 is the full resolution; the last stage is the bottleneck. Lines and tables are means over the cases, "
    "bands reach from the smallest to the largest case.",
    "L1-norm sparsity is Hoyer's: (√n - |x|₁ / |x|₂) / (√n - 1) for each channel's map of n values, 0 if all "
    "magnitudes are equal, 1 if all but one value are zero.",
    "Contribution: |block(x) - x|₂ / |x|₂ of the skip x. In maps: |block(x) - x|₂ over the channels of a voxel, in "
    "units of the root mean square of |x|₂.",
    "An attention matrix is C x C, its rows sum to 1. Entropy is the rows' divided by log C. Distances are total "
    "variations, means over the rows: 0 is equal, 1 is disjoint.",
    "Pairs in the table are the forward and the reverse direction's.",
    "Saturated are values of i, f, o below 0.05 or above 0.95, and of g below -0.95 or above 0.95.",
)


def draw_figures(report: Report) -> dict[str, bytes]:
    """Returns the figures about all cases, PNG by file name."""
    models = report.models
    figures = {"sparsity.png": draw_sparsity(models)}
    if any(model.stages() for model in models):
        figures["contribution.png"] = draw_contributions(models)
    if any(model.stages("attention") for model in models):
        figures["attention.png"] = draw_attention(models)
    for index, model in enumerate(models):
        if model.stages("attention"):
            figures[f"matrices_{index + 1}.png"] = draw_matrices(model)
    if any(model.stages("gates") for model in models):
        figures["gates.png"] = draw_gates(models)
    return figures


def to_html(report: Report, overlays: Mapping[str, str]) -> str:
    """Returns the page.

    Args:
        report: what was found.
        overlays: file name of each case's overlay.
    """
    models = report.models
    title = f"inspect: {' and '.join(model.label for model in models)}"
    have_modules, have_attention, have_gates = (
        any(model.stages(kind) for model in models) for kind in ("module", "attention", "gates")
    )
    about = [
        ["model", "trainer", "plans", "configuration", "fold", "checkpoint", "modules"],
        *(
            [
                model.label,
                *(model.about[key] for key in ("trainer", "plans", "configuration", "fold", "checkpoint")),
                model.salstm["module"] if model.salstm else "none",
            ]
            for model in models
        ),
    ]
    parts = [
        f"<h1>{escape(title)}</h1>",
        html_table(about, text_columns=7),
        f"<p>Cases: {len(models[0].cases)}, of <code>{escape(report.images)}</code></p>",
        html_list(report.words(), "verdict"),
        "<h2>Sparsity</h2>",
        _figure("sparsity.png", "Sparsity and mean absolute value against the stage; bands are the range over cases."),
    ]
    if have_modules:
        parts += [
            "<h2>What the modules add</h2>",
            _figure("contribution.png", "Norm of each module's contribution relative to its skip's."),
        ]
        parts += [
            "<p>Each case as the network reads it, and where each module acts: from transparent at 0 to bright at the "
            "panel's largest value, which its title gives, in per cent of the skip's root mean square.</p>",
            *(_figure(file, case) for case, file in overlays.items()),
        ]
    if have_attention:
        parts += [
            "<h2>Attention</h2>",
            _figure(
                "attention.png",
                "Within the grey bands the attention has collapsed: to the identity, or to the uniform matrix.",
            ),
        ]
        parts += [
            _figure(f"matrices_{index + 1}.png", f"{model.label}: attention matrices, means over slices and cases.")
            for index, model in enumerate(models)
            if model.stages("attention")
        ]
    if have_gates:
        parts += [
            "<h2>Gates</h2>",
            _figure("gates.png", "Values of the last step, both directions; below, how many are saturated."),
            html_table(report.gate_rows(), text_columns=2),
        ]
    parts += [
        "<h2>Numbers</h2>",
        html_table(report.rows()),
        "<h2>What the numbers mean</h2>",
        html_list(NOTES),
        html_footer(report.command, report.made_with),
    ]
    return html_page(title, parts)


def _figure(file: str, caption: str) -> str:
    return html_figure(f'<img alt="{escape(file)}" src="{quote(file)}">', caption)
