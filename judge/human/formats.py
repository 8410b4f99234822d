"""A round's labels out of the queue and labels made elsewhere into it: JSONL, Parquet, Label Studio, Argilla.

    export_round(db, row_id, "labels.jsonl", "jsonl")                  one row a label
    export_round(db, row_id, "pairs.parquet", "parquet", what="pairs") one row a pair, with chosen and rejected
    export_round(db, row_id, "studio/", "label_studio")                config.xml and tasks.json
    export_round(db, row_id, "argilla/", "argilla", users={...})       a folder for rg.Dataset.from_disk
    import_labels(db, row_id, "export.json", "label_studio", by="ada") what came in, and what did not by reason

Labels find their pair by its key, so a file fits the round that it was exported from, and no other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from judge.human.database import Database
from judge.human.formats_argilla import read_argilla, write_argilla
from judge.human.formats_import import Imported, import_into
from judge.human.formats_label_studio import read_label_studio, write_label_studio
from judge.human.formats_rows import ForeignLabel, LabelledPair, Unreadable, labelled_pairs
from judge.human.formats_table import (
    What,
    read_jsonl,
    read_parquet,
    schema_of,
    table_rows,
    write_jsonl,
    write_parquet,
)
from judge.human.rounds import Rounds
from rollout.errors import UsageError

Format = Literal["jsonl", "parquet", "label_studio", "argilla"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export holds: rows of a table, or pairs of a folder; and labels that did not go along."""

    num_rows: int
    num_labels_left_out: int = 0


def export_round(
    db: Database,
    row_id: int,
    path: Path | str,
    format: Format,
    *,
    what: What = "labels",
    users: Mapping[str, str] | None = None,
) -> Exported:
    """Write a round, sealed or not. path: a file, or for label_studio and argilla a folder.

    what: labels or pairs, for the tables; users: Argilla's user id by annotator name, without which its labels stay
    here. Raises UsageError for an unknown format.
    """
    path, view = Path(path), Rounds(db).view(row_id)
    counting = _Counting(labelled_pairs(db, row_id))
    rows = table_rows(view, counting, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    match format:
        case "jsonl":
            return Exported(num_rows=write_jsonl(path, rows))
        case "parquet":
            return Exported(num_rows=write_parquet(path, rows, schema_of(view, what)))
        case "label_studio":
            num_written = write_label_studio(path, view, counting)
        case "argilla":
            num_written = write_argilla(path, view, counting, users or {})
        case _:
            raise UsageError(f"got format {format!r}, expected one of {', '.join(FORMATS)}")
    return Exported(num_rows=counting.num_pairs, num_labels_left_out=counting.num_labels - num_written)


def import_labels(
    db: Database, row_id: int, path: Path | str, format: Format, *, by: str, users: Mapping[str, str] | None = None
) -> Imported:
    """Take the labels of a file into a round; they are late where it is sealed.

    An annotator is named as in the file, or after the file where it names nobody. by: who imports, for the audit log;
    users as in export_round. Raises UsageError for an unknown format, or where the file is none of it.
    """
    path, view = Path(path), Rounds(db).view(row_id)
    if not path.exists():
        raise UsageError(f"{path} does not exist; expected labels to import")
    found: Iterator[ForeignLabel | Unreadable]
    match format:
        case "jsonl":
            found = read_jsonl(path)
        case "parquet":
            found = read_parquet(path)
        case "label_studio":
            found = read_label_studio(path)
        case "argilla":
            found = read_argilla(path, users or {})
        case _:
            raise UsageError(f"got format {format!r}, expected one of {', '.join(FORMATS)}")
    return import_into(db, view, found, nobody=f"import {path.stem}"[:80], by=by, source=path.name)


class _Counting:
    """Pairs on their way through, counted."""

    def __init__(self, pairs: Iterator[LabelledPair]) -> None:
        self._pairs = pairs
        self.num_pairs = 0
        self.num_labels = 0

    def __iter__(self) -> Iterator[LabelledPair]:
        for pair in self._pairs:
            self.num_pairs += 1
            self.num_labels += len(pair.labels)
            yield pair
