"""Texts and tables as editors and spreadsheets write them."""

import os
import subprocess
import sys

import pytest

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import atomic_write, fingerprint, json_if_whole, read_json, read_table, require_writable

ROWS = [{"case": "a", "group": "Köln"}, {"case": "b", "group": ""}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_tables_as_spreadsheets_write_them(encoding, delimiter, end, tmp_path):
    lines = [delimiter.join(cells) for cells in (("case", "group"), ("a", "Köln"), ("b", ""))]
    (tmp_path / "table.csv").write_bytes((end.join(lines) + end).encode(encoding))
    assert read_table(tmp_path / "table.csv") == (["case", "group"], ROWS)


def test_cells_are_stripped_short_rows_filled_and_quotes_kept_together(tmp_path):
    (tmp_path / "table.csv").write_text('case, group , more\n a,"one, two" \nb\n')
    columns, rows = read_table(tmp_path / "table.csv")
    assert columns == ["case", "group", "more"]
    assert rows == [{"case": "a", "group": "one, two", "more": ""}, {"case": "b", "group": "", "more": ""}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "it is no text"),
        ("case,group\n".encode("utf-16-le"), "it is no text, or a text in another encoding; save it as UTF-8"),
    ],
)
def test_what_is_no_such_table(content, message, tmp_path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "table.csv")


def test_empty_cells_that_spreadsheets_leave_are_nothing(tmp_path):
    (tmp_path / "table.csv").write_text("case,dice,,\na,1,,\nb,2,,,\n")
    assert [row["dice"] for row in read_table(tmp_path / "table.csv")[1]] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,dice\na,0,91\n", "line 2 has more cells than there are columns"),
        ("case,dice,dice\na,1,2\n", "the column dice is there twice"),
    ],
)
def test_a_table_whose_cells_would_be_lost_is_refused(text, message, tmp_path):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "table.csv")


def test_contents_are_told_apart_whatever_their_size_and_time(tmp_path):
    for name, text in (("a", "same"), ("b", "same"), ("c", "else")):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (1, 1))
    a, b, c = (fingerprint(tmp_path / name) for name in "abc")
    assert a == b != c


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('{"labels": {"Köln": 1}}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json", "labels") == {"labels": {"Köln": 1}}
    (tmp_path / "a.json").write_bytes(b"\x00\x01")
    with pytest.raises(SalstmError, match=r"a\.json is not JSON: it is no text"):
        read_json(tmp_path / "a.json", "labels")


def test_texts_are_utf_8_whatever_the_machines_language(tmp_path):
    program = "from pathlib import Path; from nnunetv2_salstm.host.files import write_text; import sys\n"
    program += "write_text(Path(sys.argv[1]), 'K\\xf6ln \\u2020')"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program, tmp_path / "a.txt"], env=environment, check=True)
    assert (tmp_path / "a.txt").read_bytes() == "Köln †".encode()


@pytest.mark.parametrize(("text", "found"), [(None, None), ("{", None), ("[1]", [1])])
def test_json_that_may_not_be_there(text, found, tmp_path):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    assert json_if_whole(tmp_path / "a.json") == found


def test_a_file_for_two_results_is_refused(tmp_path):
    with pytest.raises(SalstmError, match="named for two results"):
        require_writable([tmp_path / "a", None, tmp_path / "a"])


def test_what_is_interrupted_leaves_no_folders_of_its_own(tmp_path):
    def write(path, beside=None):
        with atomic_write(path) as unfinished:
            unfinished.write_text("half")
            if beside:
                beside.touch()
            raise KeyboardInterrupt

    def fail(*arguments):
        with pytest.raises(KeyboardInterrupt):
            write(*arguments)

    fail(tmp_path / "a" / "b" / "c.txt")
    assert list(tmp_path.iterdir()) == []
    fail(tmp_path / "a" / "b" / "c.txt", tmp_path / "a" / "of somebody else")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "of somebody else"]
