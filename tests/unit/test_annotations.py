import csv
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import cli
from orchestrator.scoreboard.annotation_files import read_annotations
from orchestrator.scoreboard.annotations import win_rates
from rollout.errors import UsageError
from tests.support.shared_data import shared_data
from tests.support.tiny_annotations import make_comparisons

PUBLISHED = ["NullModel", "claude-2", "gpt-3.5-turbo-1106_verbose", "vicuna-7b"]
ROWS = [
    {"instruction": "i", "output_1": "one", "output_2": "two words", "preference": 2.0},
    {"instruction": "j\nk", "output_1": 'quo"ted, text', "output_2": "", "preference": 1.25},
    {"instruction": "l", "output_1": "x", "output_2": "y\u2028z", "preference": 1.5},
    {"instruction": "m", "output_1": "x", "output_2": "y", "preference": 0.0},
    {"instruction": "n", "output_1": "x", "output_2": "y", "preference": None},
    {"instruction": "o", "output_1": "x", "output_2": "y", "preference": 2.5},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def comparisons(num=60, **truth):
    made = make_comparisons(num, **({"skill": 0.3, "length_weight": -1.0, "seed": 0} | truth))
    return [
        {
            "instruction": str(n),
            "output_1": "x" * int(made.len_baseline[n]),
            "output_2": "é" * int(made.len_model[n]),
            "preference": 1 + float(made.preferences[n]),
            "instruction_difficulty": float(made.difficulties[n]),
        }
        for n in range(num)
    ]


def command(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["rondo", "winrate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize("model", PUBLISHED)
def test_it_gives_the_published_figures(model):
    with shared_data("alpaca_eval_published.csv").open() as file:
        published = {row["model"]: row for row in csv.DictReader(file)}[model]
    figures = win_rates(shared_data(f"alpaca_eval_{model}.parquet"))
    assert figures["win_rate"] == pytest.approx(float(published["win_rate"]), abs=1e-6)
    assert figures["standard_error"] == pytest.approx(float(published["standard_error"]), abs=1e-6)
    ours = [figures[name] for name in ("num_wins", "num_losses", "num_draws", "num_total")]
    assert ours == [int(published[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total")]
    interval, controlled = figures["interval"], figures["length_controlled"]
    assert interval["low"] < figures["win_rate"] < interval["high"]
    # The published figure knows more than the file: near, in the same direction, and never passed off as the same.
    assert figures["win_rate"] < controlled["win_rate"]
    assert controlled["win_rate"] == pytest.approx(float(published["length_controlled_winrate"]), abs=15)
    assert "fitted to this file alone" in controlled["method"]


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl", ".csv"])
def test_every_kind_of_file_gives_the_same_figures(tmp_path, suffix):
    figures = win_rates(write(tmp_path / f"rows{suffix}", ROWS))
    # 1, 0.25, 0.5 and a 0 that means a draw.
    assert figures["win_rate"] == pytest.approx(100 * (1 + 0.25 + 0.5 + 0.5) / 4)
    assert figures["standard_error"] == pytest.approx(100 * np.std([1, 0.25, 0.5, 0.5], ddof=1) / 2)
    assert [figures[f"num_{name}"] for name in ("wins", "losses", "draws", "total")] == [1, 1, 2, 4]
    assert figures["num_dropped"] == {"null": 1, "out_of_range": 1}
    assert figures["length_controlled"]["win_rate"] is None
    assert "needs 10 rows" in figures["length_controlled"]["method"]


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl", ".csv"])
def test_lengths_are_in_characters(tmp_path, suffix):
    read = read_annotations(write(tmp_path / f"rows{suffix}", ROWS))
    assert read.len_1.tolist() == [3, 13, 1, 1]
    assert read.len_2.tolist() == [9, 0, 3, 1]


def test_difficulties_in_the_file_are_used(tmp_path):
    rows = comparisons(difficulty_weight=1.0)
    with_them = win_rates(write(tmp_path / "with.csv", rows))["length_controlled"]
    assert "instruction difficulty" in with_them["method"]
    del rows[0]["instruction_difficulty"]
    without = win_rates(write(tmp_path / "without.jsonl", rows))["length_controlled"]
    assert "of length and a constant" in without["method"]


def test_a_missing_output_costs_the_length_controlled_figure_alone(tmp_path):
    rows = comparisons()
    rows[0]["output_2"] = None
    figures = win_rates(write(tmp_path / "rows.json", rows))
    assert (figures["num_total"], figures["length_controlled"]["num_rows"]) == (60, 59)
    assert figures["num_dropped"] == {"output_missing": 1}


def test_rows_of_one_instruction_are_one_prompt_of_the_interval(tmp_path):
    rows = comparisons()
    once = win_rates(write(tmp_path / "once.json", rows))["interval"]
    assert win_rates(write(tmp_path / "thrice.json", rows * 3))["interval"] == once


def test_one_row_has_no_standard_error(tmp_path):
    assert win_rates(write(tmp_path / "rows.json", ROWS[:1]))["standard_error"] is None


def test_the_command_prints_one_json_object_or_a_table(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "rows.parquet", comparisons())
    code, out, err = command(capsys, monkeypatch, path, "--json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert figures == win_rates(path)
    code, out, _ = command(capsys, monkeypatch, path)
    assert code == 0
    assert f"{figures['win_rate']:.2f}" in out
    assert f"{figures['length_controlled']['low']:.2f} to" in out
    assert "60 in all" in out


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.json", None, "does not exist"),
        ("rows.txt", "x", "ends in '.txt', expected one of .parquet, .json, .jsonl, .csv"),
        ("rows.json", "", "is not readable as json"),
        ("rows.json", "[" * 100_000, "is not readable as json"),
        ("rows.json", '{"a": 1}', "expected a list of objects"),
        ("rows.json", "[]", "has no rows"),
        ("rows.csv", "", "has no rows"),
        ("rows.jsonl", '{"preference": 1}\nno', "is not readable as jsonl"),
        ("rows.jsonl", b"\xff", "is not readable as jsonl"),
        ("rows.parquet", "no parquet", "is not readable as parquet"),
        ("rows.csv", "instruction,output_1,output_2,preference\na,b,c,good\n", "is not readable as csv"),
        ("rows.csv", "instruction,output_1\na,b\n", "has no column 'output_2', only instruction, output_1"),
        ("rows.json", json.dumps(ROWS[4:]), "has no preference in [1, 2]"),
        ("rows.json", json.dumps([ROWS[0] | {"preference": "2"}]), "row 1: preference is '2', expected a number"),
        ("rows.json", json.dumps([ROWS[0] | {"preference": True}]), "row 1: preference is True, expected a number"),
        ("rows.json", json.dumps([ROWS[0], ROWS[1] | {"output_1": 3}]), "row 2: output_1 is 3, expected text"),
        ("rows.json", json.dumps([ROWS[0] | {"preference": 10**400}]), "1 out_of_range"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, capsys, monkeypatch, name, content, problem):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as raised:
        win_rates(path)
    assert problem in str(raised.value)
    code, out, err = command(capsys, monkeypatch, path, "--json")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "rows.json").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        win_rates(tmp_path / "rows.json")
