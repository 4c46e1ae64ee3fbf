"""A study's report as a page for a browser."""

from html import escape
from urllib.parse import quote

from nnunetv2_salstm.page import html_figure, html_list, html_page, html_table, html_warning
from nnunetv2_salstm.reporting.comparison import titled
from nnunetv2_salstm.study.forest import draw_forest
from nnunetv2_salstm.study.places import Place
from nnunetv2_salstm.study.report import SHOWN, StudyReport


def to_html(report: StudyReport) -> str:
    """Returns the page, which needs no other file; it has links to the pages of the comparisons beside it."""
    hours = report.hour_rows()
    return html_page(
        report.title,
        [
            f"<h1>{escape(report.title)}</h1>",
            f"<p>{escape(report.introduction())}</p>",
            *(html_warning(title, sentences) for title, sentences in report.warnings().items()),
            html_list(report.verdicts(), "verdict"),
            *(part for metric in SHOWN for part in _metric(report, metric)),
            f"<h2>{report.hours_title}</h2><p>{escape(report.devices())}</p>{html_table(hours)}"
            if len(hours) > 1
            else "",
            "<h2>The comparisons</h2>",
            "<p>Labels one by one, all metrics, learning curves and the most changed cases:</p>",
            f'<ul class="notes">{"".join(map(_link, report.places))}</ul>',
            "<h2>What the numbers mean</h2>",
            html_list(report.notes()),
            f"<h2>The study file</h2><p><code>{escape(report.study.file.name)}</code></p>",
            # A browser drops the first line's end.
            f'<div class="table"><pre>\n{escape(report.text)}</pre></div>',
            "<h2>Versions</h2>",
            html_list(report.versions()),
        ],
    )


def _metric(report: StudyReport, metric: str) -> list[str]:
    rows, best = report.mean_rows(metric)
    forest = draw_forest(report) if metric == "dice" else ""
    return [
        f"<h2>{escape(titled(metric))}</h2>",
        "<p>Mean (standard deviation over seeds / over folds); bold: the best mean.</p>",
        html_table(rows, strong=best),
        html_figure(forest),
        f"<p>Differences from {escape(report.baseline)}, paired by case.</p>",
        html_table(report.difference_rows(metric), text_columns=2),
    ]


def _link(place: Place) -> str:
    results = place.written.results
    address = quote(f"{place.report}.html")
    about = f"{place.cases} cases; labels {', '.join(results.labels)}"
    return f'<li><a href="{address}">{escape(place.name)}</a>: {escape(about)}</li>'
