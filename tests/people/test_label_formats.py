"""A round leaves the queue in four formats and comes back from each as it was."""

import json
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from judge.human.database import Database
from judge.human.formats import export_round, import_labels
from judge.human.formats_label_studio import labelling_config
from judge.human.formats_rows import ForeignLabel, from_side, labelled_pairs, to_side
from judge.human.rounds import Rounds
from judge.human.schema import annotators, events, tasks
from judge.human.types import NewTask, RoundKey, Rules
from rollout.errors import UsageError

NUM_PAIRS = 6
RULES = Rules(overlap=2, double_share=0.0, max_labels=3, criteria=(("helpful", "Which helps more?"),))
USERS = {
    "ada": "11111111-1111-4111-8111-111111111111",
    "grace": "22222222-2222-4222-8222-222222222222",
    "joan": "33333333-3333-4333-8333-333333333333",
}
PLACES = {"jsonl": "labels.jsonl", "parquet": "labels.parquet", "label_studio": "studio", "argilla": "argilla"}
# Argilla keeps neither the seconds that a label took nor when it was given; Parquet holds no lone surrogate.
KEPT = {
    "jsonl": ("label", "strength", "reason", "comment", "criteria", "swapped", "seconds", "at"),
    "parquet": ("label", "strength", "reason", "criteria", "swapped", "seconds", "at"),
    "label_studio": ("label", "strength", "reason", "comment", "criteria", "swapped", "seconds", "at"),
    "argilla": ("label", "strength", "reason", "comment", "criteria"),
}


def key_of(number):
    return f"{number:02d}" * 32


def new_queue(template, folder, rules=RULES, name="queue"):
    shutil.copy(template, folder / f"{name}.sqlite")
    db = Database(f"sqlite:///{folder / name}.sqlite", clock=lambda: 1_000.0)
    rounds = Rounds(db)
    row_id = rounds.open(RoundKey(run_id="r" * 16, round_id=3), "tiny", rules, 1).row_id
    pairs = [
        NewTask(
            key=key_of(number),
            prompt_id=f"p{number}",
            a=0,
            b=1,
            messages=({"role": "user", "content": f"What is {number}?"},),
            text_a=f"first {number} \x00 \ud800",
            text_b=f"second {number}",
        )
        for number in range(NUM_PAIRS)
    ]
    rounds.submit_chunk(row_id, 0, pairs)
    return db, row_id


def made_elsewhere():
    """Labels of three people: agreement, disagreement, tie, both bad and a skip."""
    given = ForeignLabel(
        key=key_of(0),
        annotator="ada",
        label="a",
        strength="clearly",
        comment="odd: \x00 \ud800 <b>",
        criteria={"helpful": "b"},
        swapped=True,
        seconds=7.5,
        at=500.0,
    )
    plain = replace(given, strength=None, comment="", criteria={}, swapped=False)
    return [
        given,
        replace(plain, annotator="grace"),
        replace(plain, key=key_of(1), label="tie", criteria={"helpful": "tie"}),
        replace(plain, key=key_of(1), annotator="grace", label="both_bad"),
        replace(plain, key=key_of(2), label="b", strength="slightly"),
        replace(plain, key=key_of(3), annotator="joan", label="skip", reason="not my language"),
    ]


def write_lines(path, entries):
    rows = []
    for entry in entries:
        row = {name: value for name, value in vars(entry).items() if name not in {"at", "criteria"}}
        criteria = {f"criterion_{name}": value for name, value in entry.criteria.items()}
        rows.append(json.dumps(row | criteria | {"submitted_at": entry.at}))
    path.write_text("\n".join(rows))
    return path


@pytest.fixture
def labelled(template, tmp_path):
    db, row_id = new_queue(template, tmp_path)
    done = import_labels(db, row_id, write_lines(tmp_path / "in.jsonl", made_elsewhere()), "jsonl", by="ada")
    assert (done.num_labels, done.num_late, dict(done.num_refused)) == (6, 0, {})
    return db, row_id


def labels_in(db, row_id, names):
    return {
        (pair.key, named.annotator): {name: getattr(named.given, name) for name in names}
        for pair in labelled_pairs(db, row_id)
        for named in pair.labels
    }


@pytest.mark.parametrize("format", PLACES)
def test_labels_that_leave_come_back_as_they_were(template, tmp_path, labelled, format):
    db, row_id = labelled
    path = tmp_path / "out" / PLACES[format]
    done = export_round(db, row_id, path, format, users=USERS)
    assert done.num_rows == (6 if format in {"jsonl", "parquet"} else NUM_PAIRS)
    assert done.num_labels_left_out == 0
    other, other_row = new_queue(template, tmp_path, name="other")
    back = import_labels(other, other_row, path, format, by="ada", users=USERS)
    assert (back.num_labels, dict(back.num_refused)) == (6, {})
    assert labels_in(other, other_row, KEPT[format]) == labels_in(db, row_id, KEPT[format])
    assert [(p.key, p.outcome) for p in labelled_pairs(other, other_row)] == [
        (p.key, p.outcome) for p in labelled_pairs(db, row_id)
    ]


@pytest.mark.parametrize("format", PLACES)
def test_the_same_file_again_changes_nothing(tmp_path, labelled, format):
    db, row_id = labelled
    path = tmp_path / PLACES[format]
    export_round(db, row_id, path, format, users=USERS)
    before = labels_in(db, row_id, KEPT[format])
    again = import_labels(db, row_id, path, format, by="ada", users=USERS)
    assert (again.num_labels, dict(again.num_refused)) == (0, {"already_labelled": 6})
    assert labels_in(db, row_id, KEPT[format]) == before


@pytest.mark.parametrize("format", PLACES)
def test_an_export_is_the_same_bytes_each_time(tmp_path, labelled, format):
    db, row_id = labelled
    found = []
    for name in ("one", "two"):
        path = tmp_path / name / PLACES[format]
        export_round(db, row_id, path, format, users=USERS)
        files = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())
        found.append([(p.name, p.read_bytes()) for p in files])
    assert found[0] == found[1]


def test_imported_labels_settle_their_pairs(labelled):
    db, row_id = labelled
    outcomes = {pair.key: pair.outcome for pair in labelled_pairs(db, row_id)}
    assert outcomes == {key_of(0): "a", **{key_of(n): None for n in range(1, NUM_PAIRS)}}
    view = Rounds(db).view(row_id)
    assert (view.num_resolved, view.num_labels) == (1, 5)  # a skip is no label
    with db.read() as connection:
        wanted = dict(connection.execute(select(tasks.c.key, tasks.c.labels_wanted)).all())
    assert wanted[key_of(1)] == 3  # tie against both bad: one more is asked for


def test_an_import_that_reaches_the_quorum_seals_the_round(template, tmp_path):
    db, row_id = new_queue(template, tmp_path, replace(RULES, overlap=1, seal_share=0.5))
    first = [replace(made_elsewhere()[4], key=key_of(n)) for n in range(3)]
    import_labels(db, row_id, write_lines(tmp_path / "in.jsonl", first), "jsonl", by="ada")
    assert Rounds(db).view(row_id).sealed_by == "quorum"


def test_labels_for_a_sealed_round_are_late_and_leave_its_hash(tmp_path, labelled):
    db, row_id = labelled
    sealed = Rounds(db).seal(row_id, "ada")
    late = [replace(made_elsewhere()[4], annotator="grace"), replace(made_elsewhere()[4], key=key_of(5))]
    done = import_labels(db, row_id, write_lines(tmp_path / "late.jsonl", late), "jsonl", by="ada")
    assert (done.num_labels, done.num_late) == (2, 2)
    Rounds(db).verify(row_id)
    after = Rounds(db).view(row_id)
    assert (after.sha256, after.num_late, after.num_resolved) == (sealed.sha256, 2, sealed.num_resolved)


def test_what_cannot_be_taken_is_counted_by_reason(template, tmp_path):
    db, row_id = new_queue(template, tmp_path)
    good = {"key": key_of(0), "label": "a"}
    rows = [
        good,
        good | {"key": "elsewhere"},
        {"label": "a"},
        good | {"label": "maybe"},
        good | {"annotator": "ada", "strength": "very"},
        good | {"annotator": "ada", "criterion_style": "a"},
        good | {"annotator": "ada", "criterion_helpful": "both_bad"},
        good | {"annotator": "ada", "comment": "x" * 4_001},
        good | {"annotator": "ada", "seconds": -1.0},
        good | {"annotator": "a\u202eda"},
        good | {"annotator": 7},
        7,
    ]
    path = tmp_path / "team.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    done = import_labels(db, row_id, path, "jsonl", by="ada")
    assert done.num_labels == 1
    assert done.num_refused == {
        "bad_annotator": 2,
        "bad_comment": 1,
        "bad_criteria": 1,
        "bad_strength": 1,
        "bad_time": 1,
        "no_key": 1,
        "not_an_object": 1,
        "unknown_criterion": 1,
        "unknown_key": 1,
        "unknown_label": 1,
    }
    assert done.num_labels + sum(done.num_refused.values()) == len(rows)
    assert list(labels_in(db, row_id, ["label"])) == [(key_of(0), "import team")]


def test_an_annotator_is_found_whatever_the_case_and_made_without_a_password(tmp_path, labelled):
    db, row_id = labelled
    more = [replace(made_elsewhere()[4], annotator="GRACE"), replace(made_elsewhere()[4], annotator="mary", at=None)]
    import_labels(db, row_id, write_lines(tmp_path / "more.jsonl", more), "jsonl", by="ada")
    with db.read() as connection:
        found = connection.execute(select(annotators.c.name, annotators.c.password_hash)).all()
        log = connection.execute(select(events.c.detail).where(events.c.action == "import")).scalars().all()
    assert found == [("ada", None), ("grace", None), ("joan", None), ("mary", None)]
    assert json.loads(log[-1]) == {"num_labels": 2, "num_late": 0, "num_refused": {}, "source": "more.jsonl"}


def test_rows_of_pairs_have_what_a_preference_trainer_reads(tmp_path, labelled):
    db, row_id = labelled
    path = tmp_path / "pairs.parquet"
    assert export_round(db, row_id, path, "parquet", what="pairs").num_rows == NUM_PAIRS
    rows = pq.read_table(path).to_pylist()
    first = rows[0]
    assert first["chosen"] == [{"role": "assistant", "content": "first 0 \x00 ?"}]
    assert first["rejected"] == [{"role": "assistant", "content": "second 0"}]
    assert (first["p_a"], first["num_labels"], first["outcome"]) == (1.0, 2, "a")
    assert (rows[1]["chosen"], rows[1]["p_a"], rows[1]["outcome"]) == (None, 0.5, None)
    assert (rows[3]["num_labels"], rows[3]["num_skips"]) == (0, 1)
    Rounds(db).seal(row_id, "ada")
    export_round(db, row_id, path, "parquet", what="pairs")
    assert pq.read_table(path)["outcome"].to_pylist() == ["a", *["abstain"] * 5]
    assert pq.read_table(path)["outcome_reason"].to_pylist() == ["", *["deadline"] * 5]


def test_jsonl_and_parquet_have_the_same_columns(tmp_path, labelled):
    db, row_id = labelled
    for what in ("labels", "pairs"):
        export_round(db, row_id, tmp_path / "x.jsonl", "jsonl", what=what)
        export_round(db, row_id, tmp_path / "x.parquet", "parquet", what=what)
        row = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
        assert list(row) == pq.read_schema(tmp_path / "x.parquet").names


def test_other_tools_see_sides_alone_and_neither_answer_is_always_first(tmp_path, labelled):
    db, row_id = labelled
    export_round(db, row_id, tmp_path / "studio", "label_studio")
    found = json.loads((tmp_path / "studio" / "tasks.json").read_text())
    assert {task["data"]["a_is"] for task in found} == {"left", "right"}
    for task in found:
        assert set(task["data"]) == {"key", "a_is", "prompt", "left", "right"}
        assert task["data"][task["data"]["a_is"]].startswith("first")
    for side in ("left", "right"):
        for label in ("a", "b", "tie", "both_bad"):
            assert from_side(to_side(label, side), side) == label


def test_the_labelling_configuration_names_what_tasks_hold(tmp_path, labelled):
    db, row_id = labelled
    export_round(db, row_id, tmp_path / "studio", "label_studio")
    config = ElementTree.fromstring(labelling_config(Rounds(db).view(row_id)))
    found = json.loads((tmp_path / "studio" / "tasks.json").read_text())
    shown = {node.get("value")[1:] for node in config.iter() if (node.get("value") or "").startswith("$")}
    assert shown <= set(found[0]["data"])
    objects = {node.get("name") for node in config.iter() if node.tag in {"Text", "Paragraphs"}}
    controls = {node.get("name"): node for node in config.iter() if node.tag in {"Choices", "TextArea"}}
    assert all(node.get("toName") in objects for node in controls.values())
    for region in (r for task in found for annotation in task["annotations"] for r in annotation["result"]):
        options = {choice.get("alias") for choice in controls[region["from_name"]].iter("Choice")}
        assert set(region["value"].get("choices", [])) <= options


def test_a_project_of_ones_own_with_a_pairwise_tag_is_read(template, tmp_path):
    db, row_id = new_queue(template, tmp_path)
    region = {"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": "left"}}
    about = {
        "completed_by": {"email": "ada@example.org"},
        "created_at": "2026-03-09T22:16:08.728353Z",
        "lead_time": 4.0,
    }
    task = {"data": {"key": key_of(0), "a_is": "right"}, "annotations": [about | {"result": [region]}]}
    (tmp_path / "export.json").write_text(json.dumps([task, {"data": {}}, 7]))
    done = import_labels(db, row_id, tmp_path / "export.json", "label_studio", by="ada")
    assert (done.num_labels, dict(done.num_refused)) == (1, {"no_key": 2})
    found = labels_in(db, row_id, ["label", "seconds", "at"])
    assert found == {(key_of(0), "ada@example.org"): {"label": "b", "seconds": 4.0, "at": 1773094568.728353}}


def test_argilla_gets_labels_only_of_users_that_it_knows(tmp_path, labelled):
    db, row_id = labelled
    done = export_round(db, row_id, tmp_path / "argilla", "argilla", users={"ada": USERS["ada"]})
    assert done.num_labels_left_out == 3
    records = json.loads((tmp_path / "argilla" / "records.json").read_text())
    ids = {answer["user_id"] for record in records for given in record["responses"].values() for answer in given}
    assert ids == {USERS["ada"]}


def test_argillas_own_export_is_read_and_drafts_are_counted(template, tmp_path):
    db, row_id = new_queue(template, tmp_path)
    user = "44444444-4444-4444-8444-444444444444"

    def record(number, **answers):
        responses = {name: [{"user_id": user, **answer}] for name, answer in answers.items()}
        return {"id": key_of(number), "metadata": {"a_is": "left"}, "responses": responses}

    records = [
        record(0, preference={"value": "right"}),
        record(1, preference={"value": "left", "status": "draft"}),
        record(2, reason={"value": "no idea"}),
        record(3, preference={"value": "sideways"}),
    ]
    (tmp_path / "records.json").write_text(json.dumps(records))
    done = import_labels(db, row_id, tmp_path / "records.json", "argilla", by="ada")
    assert (done.num_labels, dict(done.num_refused)) == (2, {"draft": 1, "unknown_label": 1})
    assert labels_in(db, row_id, ["label"]) == {
        (key_of(0), f"argilla {user}"): {"label": "b"},
        (key_of(2), f"argilla {user}"): {"label": "skip"},
    }


@pytest.mark.parametrize("format", PLACES)
def test_a_file_of_something_else_is_refused_in_one_line(template, tmp_path, format):
    db, row_id = new_queue(template, tmp_path)
    path = tmp_path / "notes.txt"
    path.write_text("not a label in sight")
    with pytest.raises(UsageError) as caught:
        import_labels(db, row_id, path, format, by="ada")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(UsageError, match="does not exist"):
        import_labels(db, row_id, tmp_path / "nowhere", format, by="ada")
