"""Tables in Markdown and LaTeX."""

import math

import pandas

from nnunetv2_salstm.reporting.tables import Table, best_cells, latex_table, markdown_table

FRAME = pandas.DataFrame({
    "place": ["ACDC", "ACDC", "Synapse"],
    "method": ["stock", "A & B", "stock"],
    "Dice": [0.9, 0.95, math.nan],
    "HD95 (mm)": [3.0, 3.0, 4.25],
})  # fmt: skip


def test_markdown():
    table = Table(FRAME, formats={"Dice": lambda value: f"{value:.2%}"}, text_columns=2, bold={(1, "Dice")})
    assert markdown_table(table) == (
        "| place   | method |       Dice | HD95 (mm) |\n"
        "| ------- | ------ | ---------: | --------: |\n"
        "| ACDC    | stock  |     90.00% |         3 |\n"
        "| ACDC    | A & B  | **95.00%** |         3 |\n"
        "| Synapse | stock  |          - |      4.25 |"
    )


def test_markdown_keeps_cells_apart():
    table = Table(pandas.DataFrame({"a|b": ["two\nlines"], "n": [1]}))
    assert markdown_table(table) == "| a\\|b      |   n |\n| --------- | --: |\n| two lines |   1 |"


def test_latex():
    table = Table(FRAME, "Dice & HD95", {"Dice": ".2f"}, best_cells(FRAME[["Dice"]]), text_columns=2)
    assert latex_table(table, "tab:dice") == (
        "\\begin{table}\n\\centering\n\\caption{Dice \\& HD95}\n\\label{tab:dice}\n"
        "\\begin{tabular}{llrr}\n\\toprule\n"
        "place & method & Dice & HD95 (mm) \\\\\n\\midrule\n"
        "ACDC & stock & 0.90 & 3 \\\\\n"
        "ACDC & A \\& B & \\textbf{0.95} & 3 \\\\\n"
        "Synapse & stock & - & 4.25 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def test_best_cells():
    assert best_cells(FRAME[["Dice", "HD95 (mm)"]], lower=["HD95 (mm)"]) == {
        (1, "Dice"),
        (0, "HD95 (mm)"),
        (1, "HD95 (mm)"),
    }
