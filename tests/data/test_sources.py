"""What can be read, how rows are named, and what is said about data that can't be read."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import datasets
import fsspec
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from swift_core.data.dataset import TaskData, load_data
from swift_core.errors import UserError
from swift_core.spec import Column, TaskSpec

SPEC = TaskSpec(
    name="pairs",
    summary="Pairs.",
    implementation="pairs",
    columns=(
        Column(name="query", type="text", meaning="The question."),
        Column(name="score", type="number", meaning="How good.", required=False),
        Column(name="tags", type="list[text]", meaning="Words.", required=False),
        Column(name="rank", type="integer", meaning="Place.", required=False),
        Column(name="good", type="boolean", meaning="Whether.", required=False),
    ),
)


CLASSES = TaskSpec(
    name="classes",
    summary="Classes.",
    implementation="classes",
    columns=(
        Column(name="kind", type="label", meaning="A class."),
        Column(name="kinds", type="any", meaning="Classes."),
        Column(name="rank", type="integer", meaning="Its number."),
    ),
)


def load(dataset: Any, *, split: str = "train", spec: TaskSpec = SPEC) -> TaskData:
    return load_data(dataset, name="train", spec=spec, columns={}, split=split, config=None)


def faults(dataset: Any, *, split: str = "train") -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        load(dataset, split=split)
    return caught.value.faults


def queries(data: TaskData) -> list[str]:
    return list(data.records["query"])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))
    return tmp_path


def test_json_lines_with_mark_crlf_blank_lines_and_no_final_newline() -> None:
    raw = b'\xef\xbb\xbf{"query": "\xe9\x97\xae"}\r\n\r\n  \t\r\n{"query": "b\\u2028", "score": NaN}'
    Path("train.jsonl").write_bytes(raw.replace(b', "score": NaN', b""))
    data = load("train.jsonl")
    assert queries(data) == ["问", "b\u2028"]
    (source,) = data.sources
    assert (source.name, source.rows) == ("train.jsonl", 2)
    assert source.sha256 == hashlib.sha256(Path("train.jsonl").read_bytes()).hexdigest()


def test_line_separators_inside_text_do_not_end_a_line() -> None:
    Path("train.jsonl").write_text('{"query": "a\u2028b\x85c"}\n')
    assert queries(load("train.jsonl")) == ["a\u2028b\x85c"]


def test_a_line_of_ten_megabytes() -> None:
    long = "x" * 10_000_000
    Path("train.jsonl").write_text(json.dumps({"query": long}) + "\n" + '{"query": "b"}\n')
    assert queries(load("train.jsonl")) == [long, "b"]
    Path("train.csv").write_text(f"query\n{long}\n")
    assert queries(load("train.csv")) == [long]


def test_json_array_and_lines_under_the_same_suffix() -> None:
    Path("a.json").write_text(' [\n {"query": "a"},\n {"query": "b"} ]\n')
    Path("b.json").write_text('{"query": "a"}\n{"query": "b"}\n')
    assert queries(load("a.json")) == queries(load("b.json")) == ["a", "b"]


def test_csv_types_quotes_and_empty_cells() -> None:
    Path("t.csv").write_bytes(
        b"\xef\xbb\xbfquery,score,tags,rank,good\r\n"
        b'"a, ""b""\r\nc",1.5,"[""x"", ""y""]",3.0,TRUE\r\n'
        b"\r\n"
        b"d,,,,\r\n"
        b"e,-2e3,[],-7,0"
    )
    assert list(load("t.csv").records) == [
        {"query": 'a, "b"\r\nc', "score": 1.5, "tags": ["x", "y"], "rank": 3, "good": True},
        {"query": "d", "score": None, "tags": None, "rank": None, "good": None},
        {"query": "e", "score": -2000.0, "tags": [], "rank": -7, "good": False},
    ]


def test_tsv_gz_parquet_and_several_files_in_order() -> None:
    Path("a.tsv").write_text("query\tscore\na, b\t2\n")
    Path("b.jsonl.gz").write_bytes(gzip.compress(b'{"query": "b"}\n', mtime=0))
    Path("c.csv.gz").write_bytes(gzip.compress(b"query\nc\n", mtime=0))
    pq.write_table(pa.table({"query": ["d", "e"], "rank": [1.0, None], "more": [b"x", b"y"]}), "d.parquet")
    data = load(["a.tsv", Path("b.jsonl.gz"), "c.csv.gz", "d.parquet"])
    assert queries(data) == ["a, b", "b", "c", "d", "e"]
    assert data.records[3]["rank"] == 1
    assert [source.rows for source in data.sources] == [1, 1, 1, 2]


def test_urls_go_through_fsspec_and_lose_their_credentials() -> None:
    with fsspec.open("memory://train.jsonl", "wb") as stream:
        stream.write(b'{"query": "a"}\n')
    with fsspec.open("memory://rows.parquet", "wb") as stream:
        pq.write_table(pa.table({"query": ["b"]}), stream)
    data = load(["memory://train.jsonl", "memory://rows.parquet"])
    assert queries(data) == ["a", "b"]
    assert data.sources[0].sha256 == hashlib.sha256(b'{"query": "a"}\n').hexdigest()
    assert faults("memory://lost.jsonl") == ("memory://lost.jsonl: no such file",)
    (told,) = faults("nowhere://anna:pass1@host/a.jsonl?sig=sesame")
    assert told == "nowhere://host/a.jsonl: can't be read (ValueError: Protocol not known: nowhere)"


def test_secrets_do_not_come_back_through_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(location: str, mode: str) -> None:
        raise RuntimeError(f"403 for {location}, user anna, password pass1, sig=sesame")

    monkeypatch.setattr(fsspec, "open", refuse)
    (told,) = faults("https://anna:pass1@host/a.jsonl?sig=sesame")
    assert told == (
        "https://host/a.jsonl: can't be read "
        "(RuntimeError: 403 for https://host/a.jsonl, user ***, password ***, ***)"
    )


def test_local_folder_without_bars_and_with_them_left_on(capfd: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    Path("folder/test.jsonl").write_text('{"query": "a"}\n{"query": "b"}\n')
    before = datasets.utils.are_progress_bars_disabled()
    data = load("folder", split="test")
    assert queries(data) == ["a", "b"]
    assert data.sources[0].name == "folder[test]"
    assert datasets.utils.are_progress_bars_disabled() == before
    assert capfd.readouterr() == ("", "")
    (told,) = faults("folder")
    assert (
        told == "folder: split 'train' can't be loaded (Unknown split \"train\". Should be one of ['test'])"
    )


def test_folder_of_save_to_disk() -> None:
    rows = datasets.Dataset.from_list([{"query": "a"}])
    rows.save_to_disk("one")
    datasets.DatasetDict({"test": rows}).save_to_disk("many")
    assert queries(load("one")) == queries(load("many", split="test")) == ["a"]
    assert faults("many") == ("many: no split 'train'; it has test",)


def test_folder_without_data() -> None:
    Path("empty").mkdir()
    assert faults("empty") == (
        "empty: the folder holds no data files (looked for .jsonl, .json, .csv, .tsv, .parquet)",
    )


def test_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, config: str | None, **options: Any) -> datasets.Dataset:
        asked.append((name, config, options))
        return datasets.Dataset.from_list([{"query": "a"}, {"query": ""}])

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert faults("owner/name.v1") == (
        "owner/name.v1[train] row 2: column 'query': expected a text, found an empty string",
    )
    assert asked == [("owner/name.v1", None, {"split": "train"})]


def test_hub_offline_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: Any, name: str, timeout: float) -> None:
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled.")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    start = time.monotonic()
    assert faults("owner/name") == (
        "owner/name: there is no such local file or folder, and the hub could not be asked for a data set of "
        "that name (offline mode is enabled); give the path of a local file or folder instead",
    )
    assert time.monotonic() - start < 3


def test_hub_offline_with_a_copy_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: Any, name: str, timeout: float) -> None:
        raise TimeoutError("timed out")

    def load_dataset(*args: Any, **options: Any) -> datasets.Dataset:
        assert datasets.config.HF_HUB_OFFLINE, "the library would repeat its requests for half a minute"
        return datasets.Dataset.from_list([{"query": "cached"}])

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    assert queries(load("owner/name")) == ["cached"]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_hub_does_not_know_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: Any, name: str, timeout: float) -> None:
        kind = huggingface_hub.errors.RepositoryNotFoundError
        raise kind.__new__(kind)  # its constructor wants a whole HTTP response

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unknown)
    assert faults("owner/nmae") == (
        "owner/nmae: there is no such local file or folder, and the hub has no data set of that name that "
        "you may read (for a private one, log in with `hf auth login`)",
    )


def test_hub_connection_lost_while_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **options: Any) -> None:
        raise ConnectionError("connection reset")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert "could not be asked" in faults("name")[0]
    assert "(connection reset)" in faults("name")[0]


def test_in_memory_rows_and_datasets_with_a_stable_fingerprint() -> None:
    rows = [{"query": "a", "rank": 1}, {"rank": 2, "query": "b"}]
    listed = load(rows)
    table = load(datasets.Dataset.from_list(rows))
    assert queries(listed) == queries(table) == ["a", "b"]
    assert listed.sources == table.sources
    assert listed.sources[0].name == "train_dataset"
    # Written down: it must be the same in another process, or the token cache is never used again.
    assert listed.sources[0].sha256 == "77ba48db0edfd6cbdc832cd10c1503ee3493523b36e0e3311cd3199b01dbaff2"
    assert load([{"query": "a"}, {"query": "c"}]).fingerprint != listed.fingerprint
    assert queries(load(datasets.Dataset.from_list(rows).select([1]))) == ["b"]


def test_a_value_that_json_cannot_write_does_not_hide_others_from_the_fingerprint() -> None:
    odd = {("k",): 1}
    assert load([{"query": "a", "odd": odd}]).fingerprint != load([{"query": "b", "odd": odd}]).fingerprint


ACCEPTED = (
    "expected a path or a list of paths (jsonl, json, csv, tsv, parquet; local or URL), a folder, a hub id, "
    "a datasets.Dataset, or a list of mappings"
)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (5, f"train_dataset: {ACCEPTED}; found a number (5)"),
        (None, f"train_dataset: {ACCEPTED}; found null"),
        (
            ["a.jsonl", {"query": "a"}],
            f"train_dataset: {ACCEPTED}; found a list that mixes paths and other things",
        ),
        ([], "train_dataset: there are no rows in it"),
        ([3], "row 1 of train_dataset: expected a mapping from column names to values, found a number (3)"),
        (
            datasets.Dataset.from_list([{"query": "a"}]).to_iterable_dataset(),
            f"train_dataset: streaming is not supported yet; {ACCEPTED}",
        ),
        (
            datasets.DatasetDict({"x": datasets.Dataset.from_list([{"query": "a"}])}),
            "train_dataset: found several splits (x); give one, such as dataset['train']",
        ),
        (
            datasets.Dataset.from_list([{"query": "a"}]).with_transform(lambda rows: rows),
            "train_dataset: the data set has a transform, but rows are read only once; apply it with map()",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_are_no_data(value: Any, told: str) -> None:
    assert faults(value) == (told,)


WRONG_FILES = [
    ("a.jsonl", b"", "a.jsonl: there are no rows in it"),
    ("a.jsonl", b"\n \n", "a.jsonl: there are no rows in it"),
    (
        "a.jsonl",
        b'{"query": "a"}\n{"query": "\xe9"}\n',
        "a.jsonl:2: not UTF-8 at byte 12 of the line (0xe9); save the file as UTF-8",
    ),
    (
        "a.jsonl",
        b'\n{"query": "a",}',
        "a.jsonl:2: not valid JSON at column 15: Expecting property name enclosed",
    ),
    ("a.jsonl", b'{"query": "a"} {"query": "b"}', "a.jsonl:1: not valid JSON at column 16: Extra data"),
    ("a.jsonl", b'["query"]', 'a.jsonl:1: expected a JSON object, found a list (["query"])'),
    ("a.jsonl", b"null", "a.jsonl:1: expected a JSON object, found null"),
    (
        "a.jsonl",
        b'{"query": "a", "x": {"b": 1, "b": 2}}',
        'a.jsonl:1: the key "b" appears twice in one object',
    ),
    ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not usable JSON: lists or objects are nested too deeply"),
    ("a.jsonl", b'{"query": ' + b"1" * 5000 + b"}", "a.jsonl:1: not usable JSON: Exceeds the limit"),
    (
        "a.jsonl",
        b'{"query": "\\ud800"}',
        "a.jsonl:1: column 'query': expected a text, found a string without a visible character",
    ),
    (
        "a.jsonl",
        b'{"query": "x\\ud83d"}',
        "a.jsonl:1: column 'query': expected a text, found half a character at position 2 "
        "(\\ud83d without its other half)",
    ),
    ("a.json", b'[\n{"query": "a"},\n3]', "a.json:3 (item 2): expected a JSON object, found a number (3)"),
    ("a.json", b'[{"query": "a"},\n]', "a.json:2: not valid JSON at column 1: Expecting value"),
    ("a.json", b'[{"query": "a"}', "a.json: not valid JSON after item 1: expected ',' or ']'"),
    ("a.json", b'[{"query": "a"}] x', "a.json: not valid JSON: there is text after the closing ']'"),
    ("a.json", b"[]", "a.json: there are no rows in it"),
    ("a.json", b'[\n"\xff"]', "a.json:2: not UTF-8 at byte 2 of the line (0xff); save the file as UTF-8"),
    (
        "a.json",
        b'{\n "data": []}',
        "a.json: the file starts with an object over several lines; expected one JSON array of objects, "
        "or one object a line",
    ),
    ("a.csv", b"", "a.csv: there are no rows in it"),
    ("a.csv", b"query\n", "a.csv: there are no rows in it"),
    ("a.csv", b"query,score\na\n", "a.csv:2: expected 2 cells, as in the header, found 1"),
    ("a.csv", b'query,score\n"a\nb",1\nc,1,2\n', "a.csv:4: expected 2 cells, as in the header, found 3"),
    (
        "a.csv",
        b"query,query\n",
        "a.csv:1: two columns are named 'query'; every column needs a name of its own",
    ),
    (
        "a.csv",
        b",query\n0,a\n",
        "a.csv:1: column 1 has no name; every column needs a name of its own (pandas writes such a column "
        "without index=False)",
    ),
    ("a.csv", b'query\na\n"b\n', "a.csv:3: a quoted cell is never closed"),
    ("a.csv", b"query\n\xff\n", "a.csv:2: not UTF-8 at byte 1 of the line (0xff); save the file as UTF-8"),
    ("a.csv", b'query\n""\n', "a.csv:2: column 'query': expected a text, found an empty cell"),
    (
        "a.csv",
        b"query,score\na,1_0\n",
        "a.csv:2: column 'score': expected a number, found a string (\"1_0\")",
    ),
    ("a.csv", b"query,score\na,1e999\n", "a.csv:2: column 'score': expected a finite number, found a number"),
    ("a.csv", b"query,rank\na,1.5\n", "a.csv:2: column 'rank': expected an integer, found a number (1.5)"),
    ("a.csv", b"query,good\na,yes\n", "a.csv:2: column 'good': expected a boolean, found a string (\"yes\")"),
    (
        "a.csv",
        b"query,tags\na,x\n",
        "a.csv:2: column 'tags': expected a list of texts, written as JSON in the cell, "
        'found a string ("x")',
    ),
    ("a.parquet", b"PAR1", "a.parquet: not a readable parquet file ("),
    ("a.jsonl.gz", b"{}", "a.jsonl.gz: can't be read to its end (Not a gzipped file"),
    (
        "a.jsonl.gz",
        gzip.compress(b'{"query": "a"}', mtime=0)[:-9],
        "a.jsonl.gz: can't be read to its end (Compressed file",
    ),
    (
        "a.xlsx",
        b"x",
        "a.xlsx: unknown kind of file; known are .jsonl, .json, .csv, .tsv, .parquet, "
        "all but parquet also as .gz",
    ),
]


@pytest.mark.parametrize(("name", "content", "told"), WRONG_FILES)
def test_wrong_files(name: str, content: bytes, told: str) -> None:
    Path(name).write_bytes(content)
    (fault,) = faults(name)
    assert fault.startswith(told)
    assert len(fault) < 200


def test_a_mended_row_hides_no_later_fault() -> None:
    Path("a.jsonl").write_bytes(b'{"query": 1}\n\xff\n{"query": "a"}\nnope\n')
    assert [fault.split(":")[1] for fault in faults("a.jsonl")] == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("trian.jsonl", "trian.jsonl: no such file or folder. Did you mean 'train.jsonl'?"),
        ("a\0.csv", "a\0.csv: no such file or folder"),
        ("./lost", "./lost: no such file or folder"),
        ("no/lost.csv", "no/lost.csv: no such file, and no folder 'no'"),
        ("~nobody-here/x.csv", "~nobody-here/x.csv: no such file, and no folder '~nobody-here'"),
        (Path("owner/name"), "owner/name: no such file, and no folder 'owner'"),
        ('{"query": "' + "a" * 5000, '{"query": "' + "a" * 188 + "…: no such file or folder"),
    ],
)
def test_missing_files(path: str | Path, told: str) -> None:
    Path("train.jsonl").write_text("{}")
    assert faults(path) == (told,)


def test_permission_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.jsonl").write_text('{"query": "a"}')

    real = Path.open

    def refuse_reading(path: Path, mode: str) -> Any:
        if path.name == "a.jsonl":
            raise PermissionError(13, "Permission denied")
        return real(path, mode)

    monkeypatch.setattr(Path, "open", refuse_reading)  # root, who runs some tests, may read everything
    assert faults("a.jsonl") == ("a.jsonl: permission denied; make it readable for the user that runs this",)


def test_csv_leaves_the_limit_of_the_process_alone() -> None:
    before = csv.field_size_limit(1000)
    try:
        Path("a.csv").write_text("query\n" + "x" * 2000)
        load("a.csv")
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def classes(names: list[str]) -> datasets.Dataset:
    label = datasets.ClassLabel(names=names)
    features = {"kind": label, "kinds": datasets.List(label), "rank": label, "odd": datasets.Value("string")}
    rows = {"kind": [1, 0, 1], "kinds": [[0, 1], [], [1]], "rank": [1, 0, 1], "odd": ["x", None, "y"]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@pytest.mark.parametrize("form", ["memory", "parquet", "folder of parquet", "save_to_disk"])
def test_a_data_set_that_names_its_classes(form: str) -> None:
    rows: Any = classes(["zebra", "ant"])
    if form == "parquet":
        rows.to_parquet("rows.parquet")
        rows = "rows.parquet"
    elif form == "folder of parquet":
        Path("folder").mkdir()
        rows.to_parquet("folder/train.parquet")
        rows = "folder"
    elif form == "save_to_disk":
        rows.save_to_disk("saved")
        rows = "saved"
    data = load(rows, spec=CLASSES)
    assert list(data.records["kind"]) == ["ant", "zebra", "ant"]
    assert list(data.records["kinds"]) == [["zebra", "ant"], [], ["ant"]]
    assert list(data.records["rank"]) == [1, 0, 1], "a column of numbers has the ids"
    # In the order of the ids, which the rows no longer show.
    assert data.class_names == {"kind": ("zebra", "ant"), "kinds": ("zebra", "ant")}


def test_an_id_without_a_class_stays_a_number() -> None:
    label = datasets.ClassLabel(names=["a", "b"])
    rows = datasets.Dataset.from_dict(
        {"kind": [-1, 1], "kinds": [[], []], "rank": [0, 0]},
        features=datasets.Features(
            {"kind": label, "kinds": datasets.List(label), "rank": datasets.Value("int64")}
        ),
    )
    assert list(load(rows, spec=CLASSES).records["kind"]) == ["-1", "b"]


def test_other_names_of_classes_are_other_data() -> None:
    ab, ba, again = (load(classes(names), spec=CLASSES) for names in (["a", "b"], ["b", "a"], ["a", "b"]))
    assert ab.fingerprint == again.fingerprint != ba.fingerprint


def test_files_that_name_different_classes_add_up() -> None:
    classes(["a", "c"]).to_parquet("two.parquet")
    label = datasets.ClassLabel(names=["a", "b", "c"])
    rows = {"kind": [1], "kinds": [[]], "rank": [1]}
    features = {"kind": label, "kinds": datasets.List(label), "rank": datasets.Value("int64")}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet("three.parquet")
    data = load(["two.parquet", "three.parquet"], spec=CLASSES)
    assert list(data.records["kind"]) == ["c", "a", "c", "b"]
    assert data.class_names["kind"] == ("a", "c", "b")
