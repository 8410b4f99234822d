"""The report of a run: what it says, and that nothing in it is more than text."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from orchestrator.line_chart import Line, draw, ticks
from orchestrator.report.contents import without_addresses
from orchestrator.report.curves import last_steps, thinned
from orchestrator.report.lanes import round_lanes
from orchestrator.report.page import cut, report, write_report
from orchestrator.rundir import open_run
from rollout.errors import UsageError
from tests.support.html_seen import Seen
from tests.support.label_pairs import HOSTILE
from tests.support.told_events import told_events
from tests.support.told_run import KEPT, told_config, write_told_run

LOADS = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "formaction"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("report") / "<script>alert(1)"
    write_told_run(root, answer=HOSTILE)
    return report(root)


def test_what_policies_and_judges_wrote_is_text(hostile):
    seen = Seen(hostile)
    assert not {"script", "iframe", "img", "form", "object", "link", "base", "a"} & set(seen.tags)
    assert not [name for _, name, _ in seen.attributes if name.startswith("on") or name in LOADS]
    assert seen.text.count("<script>window.pwned = 1</script>") == 3, "after, chosen, and how the attempt ended"
    assert hostile.count("alert(1)") == hostile.count("&lt;script&gt;alert(1)") == 2 + 3, "the name, and an address"
    assert "url(" not in hostile
    assert "default-src 'none'" in hostile


def test_what_no_page_can_hold_is_replaced(hostile):
    assert hostile.encode().decode() == hostile
    assert not re.search("[\x00-\x08\x0e-\x1f\ud800-\udfff]", hostile)
    assert "NUL \ufffd, surrogate \ufffd" in Seen(hostile).text


def test_every_element_that_opens_closes(hostile):
    class Nesting(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open_tags: list[str] = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br"):
                self.open_tags.append(tag)

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    parser = Nesting()
    parser.feed(hostile)
    assert parser.open_tags == []


def test_it_says_what_the_run_found(tmp_path):
    root = tmp_path / "mine"
    write_told_run(root)
    open_run(root, told_config(learner__beta=0.3, tracking__mlflow="http://me:secret@mlflow:5000"), amend=True)
    text = " ".join(Seen(report(root)).text.split())
    for said in (
        "2 of 2 rounds, 2 pairs, 4 optimizer steps",
        "0.70 win rate vs base, 0.60 to 0.80",
        "0.40 gold judge's win rate vs base, 0.30 to 0.50",
        "0.200 KL to the base",
        "v0 → v1 1 tie 2; judge abstained: too_few 1",
        "round 0: the judge alone rises",
        "Round 1, 100.0 s stages",
        "idle 80% engine 1",
        "idle 70% judge",
        "idle 50%",
        "before the base's after an answer",
        "learner.beta: 0.1 -> 0.3",
        "an attempt failed: an answer",
        "(address left out)",
        "tiny_judge:score",
    ):
        assert said in text, said
    assert "secret" not in text


def test_its_charts_are_well_formed(hostile):
    charts = re.findall(r"<svg .*?</svg>", hostile, re.DOTALL)
    assert len([ElementTree.fromstring(chart) for chart in charts]) == 7 + 2 * 5
    assert "gold judge 0.4 [0.3, 0.5] at 1" in hostile


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    open_run(tmp_path, told_config())
    page = report(tmp_path)
    assert "no round has been opened yet" in page
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_folder_is_not_replaced_by_a_report(tmp_path):
    open_run(tmp_path, told_config())
    with pytest.raises(UsageError, match="is a folder"):
        write_report(tmp_path, tmp_path)
    assert (tmp_path / "config.json").exists()


def test_no_run_no_report(tmp_path):
    with pytest.raises(UsageError, match="not a run directory"):
        report(tmp_path)


def test_addresses_stay_at_home():
    assert without_addresses("a: http://u:p@host/x, b") == "a: (address left out) b"
    assert without_addresses("module:function") == "module:function"


def test_a_long_answer_is_cut_and_says_so():
    assert cut("a" * 7000).endswith("a [... 7,000 characters in all]")
    assert cut(" short ") == "short"


def test_work_for_the_next_round_shows_in_this_one():
    lines = [line for line in told_events(0) if line["kind"] in KEPT]
    ahead = [{**line, "round": 1} for line in lines if line["kind"] == "generated" and line["engine"] == 1]
    moved = [{**line, "time": line["time"] + 40} for line in ahead]
    first, second = round_lanes([*lines, *moved])
    (engine,) = [lane for lane in first.lanes if lane.name == "engine 1"]
    assert [(block.start, block.length, block.other_round) for block in engine.blocks] == [
        (500.0, 300.0, True),
        (100.0, 300.0, False),
    ]
    assert engine.busy == 0.6
    assert second.seconds == 30


def test_a_step_that_was_taken_again_counts_once():
    step = {"kind": "step", "stage": "learn", "round": 0, "step": 1, "loss": 3.0}
    again, other = {**step, "loss": 2.0}, {**step, "stage": "sft"}
    assert list(last_steps([step, other, again]).values()) == [again]


def test_many_points_become_means_within_a_band():
    line = thinned("loss", [(float(i), float(i % 2)) for i in range(960)])
    assert len(line.x) == 240
    assert (line.y[0], line.low[0], line.high[0], line.x[0]) == (0.5, 0.0, 1.0, 1.5)
    assert thinned("loss", [(1.0, 2.0)]).low == ()


def test_axes_span_what_is_below_zero_too():
    assert ticks(1.0, -0.5) == pytest.approx([-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(2, whole=True) == [0, 1, 2]
    assert ticks(0.0) == [0.0, 1.0]


def test_points_that_are_no_numbers_are_left_out():
    chart = draw("t", [Line(label="", x=[0, 1, 2], y=[1.0, float("nan"), 3.0])], x="x", y="y")
    assert chart.count("<circle") == 2
    assert "nan" not in chart
