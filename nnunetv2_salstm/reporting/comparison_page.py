"""The report as a page for a browser."""

from html import escape

from nnunetv2_salstm.page import html_figure, html_footer, html_list, html_page, html_table, html_warning
from nnunetv2_salstm.reporting.comparison import Report
from nnunetv2_salstm.reporting.comparison_figures import draw_curves, draw_differences, draw_scatter
from nnunetv2_salstm.reporting.gallery import Example


def to_html(report: Report, gallery: list[Example]) -> str:
    """Returns the page, which needs no other file."""
    results = report.results
    spread, cost = report.spread_rows(), report.cost_rows()
    return html_page(
        report.title,
        [
            f"<h1>{escape(report.title)}</h1>",
            f"<p>Reference: <code>{escape(report.inputs['reference'])}</code></p>",
            html_warning("Not like for like", report.unlike),
            html_warning("Left out, as it could not be scored", report.failures),
            html_list(report.verdicts(), "verdict"),
            "<h2>Means over cases</h2>",
            html_table(report.score_rows(), text_columns=2),
            "<h2>Differences from the first arm</h2>",
            html_figure(
                draw_differences(results),
                "Paired differences in Dice: a point for each case, a box for the quartiles, a line for the median.",
            ),
            html_figure(draw_scatter(results), "A point for each case; above the line the arm is better."),
            html_table(report.comparison_rows(), text_columns=3),
            "<h2>Learning curves</h2>" if (curves := draw_curves(results)) else "",
            html_figure(curves, "Thick: mean over folds and seeds; thin: each of them."),
            "<h2>Folds and seeds</h2>" + html_table(spread, text_columns=2) if len(spread) > 1 else "",
            "<h2>Cost</h2>" + html_table(cost) if len(cost) > 1 else "",
            "<h2>Most improved and most worsened cases</h2>" if gallery else "",
            *(
                html_figure(
                    example.element,
                    f"{example.case}, {results.short[example.arm]}: Dice {example.ours:.4f}, "
                    f"{example.ours - example.theirs:+.4f} from {results.short[results.baseline]}. "
                    "The slice in which the predictions differ most.",
                )
                for example in gallery
            ),
            "<h2>What the numbers mean</h2>",
            html_list(report.notes()),
            html_footer(report.inputs["command"], dict(report.versions)),
        ],
    )
