"""Mistakes in training and evaluation data."""

from __future__ import annotations

import gzip
import os

from .making import CHECK, Wrong, beir, put, rows

DATA = [
    Wrong("missing", f"{CHECK} dataset=trian.jsonl", "no such file or folder. Did you mean 'train.jsonl'?"),
    Wrong("missing folder", f"{CHECK} dataset=no/a.jsonl", "no such file, and no folder 'no'"),
    Wrong(
        "one of two missing", f"{CHECK} 'dataset=[train.jsonl, b.jsonl]'", "b.jsonl: no such file or folder"
    ),
    Wrong("missing evaluation", f"{CHECK} eval_dataset=no.jsonl", "no.jsonl: no such file or folder"),
    Wrong("empty", CHECK, "train.jsonl: there are no rows in it", put("train.jsonl", "")),
    Wrong("blank", CHECK, "train.jsonl: there are no rows in it", put("train.jsonl", "\n  \n\n")),
    Wrong(
        "broken JSON",
        CHECK,
        "train.jsonl:1: not valid JSON at column 15",
        put("train.jsonl", '{"query": "a",\n'),
    ),
    Wrong(
        "no object", CHECK, "train.jsonl:1: expected a JSON object, found a list", put("train.jsonl", "[1]\n")
    ),
    Wrong(
        "key twice",
        CHECK,
        'the key "query" appears twice',
        put("train.jsonl", '{"query": "a", "query": "b"}\n'),
    ),
    Wrong(
        "Latin-1",
        CHECK,
        "train.jsonl:1: not UTF-8 at byte 11",
        put("train.jsonl", '{"query":"é"}'.encode("latin1")),
    ),
    Wrong(
        "other columns",
        CHECK,
        "columns: {query: question}",
        put("train.jsonl", '{"question": "a", "answer": "b"}\n'),
    ),
    Wrong(
        "wrong mapping",
        f"{CHECK} 'columns={{query: foo}}'",
        "no row has a column 'foo', which columns: {query: foo}",
    ),
    Wrong("mapping of no column", f"{CHECK} 'columns={{qery: query}}'", "has no column 'qery'"),
    Wrong(
        "column missing in a row", CHECK, "train.jsonl:9: column 'positive' is missing", rows({"query": "x"})
    ),
    Wrong(
        "null",
        CHECK,
        "column 'positive': expected a text or a list of texts, found null",
        rows({"query": "x", "positive": None}),
    ),
    Wrong(
        "number",
        CHECK,
        "train.jsonl:9: column 'query': expected a text, found a number (5)",
        rows({"query": 5, "positive": "a"}),
    ),
    Wrong("nothing visible", CHECK, "found a string without a visible character", rows(query=" \u200b ")),
    Wrong(
        "text for a list",
        CHECK,
        "column 'negatives': expected a list of texts, found a string",
        rows(negatives="x"),
    ),
    Wrong(
        "null in a list",
        CHECK,
        "column 'negatives': item 2: expected a text, found null",
        rows(negatives=["a", None]),
    ),
    Wrong(
        "half a character",
        CHECK,
        "train.jsonl:1: column 'query'",
        put("train.jsonl", '{"query":"a\\ud800","positive":"b"}'),
    ),
    Wrong(
        "object over lines",
        f"{CHECK} dataset=a.json",
        "starts with an object over several lines",
        put("a.json", "{\n}"),
    ),
    Wrong(
        "csv with semicolons",
        f"{CHECK} dataset=a.csv",
        "columns found: query;positive",
        put("a.csv", "query;positive\na;b\n"),
    ),
    Wrong(
        "csv with a cell more",
        f"{CHECK} dataset=a.csv",
        "a.csv:2: expected 2 cells",
        put("a.csv", "query,positive\na,b,c\n"),
    ),
    Wrong(
        "csv with an open quote",
        f"{CHECK} dataset=a.csv",
        "a.csv:2: a quoted cell is never",
        put("a.csv", 'query,positive\n"a,b\n'),
    ),
    Wrong(
        "csv with an empty cell",
        f"{CHECK} dataset=a.csv",
        "found an empty cell",
        put("a.csv", "query,positive\na,\n"),
    ),
    Wrong(
        "csv with a column twice",
        f"{CHECK} dataset=a.csv",
        "two columns are named 'query'",
        put("a.csv", "query,query\na,b\n"),
    ),
    Wrong(
        "csv with a bare list",
        f"{CHECK} dataset=a.csv",
        "written as JSON in the cell",
        put("a.csv", "query,positive,negatives\na,b,c\n"),
    ),
    Wrong(
        "csv without rows",
        f"{CHECK} dataset=a.csv",
        "there are no rows in it",
        put("a.csv", "query,positive\n"),
    ),
    Wrong(
        "no parquet",
        f"{CHECK} dataset=a.parquet",
        "not a readable parquet file",
        put("a.parquet", "PAR1xxxx"),
    ),
    Wrong(
        "unknown kind", f"{CHECK} dataset=a.txt", "unknown kind of file; known are .jsonl", put("a.txt", "x")
    ),
    Wrong("no gzip", f"{CHECK} dataset=a.jsonl.gz", "can't be read to its end", put("a.jsonl.gz", "x")),
    Wrong(
        "cut gzip",
        f"{CHECK} dataset=a.jsonl.gz",
        "can't be read to its end",
        put("a.jsonl.gz", gzip.compress(b"{}")[:-9]),
    ),
    Wrong(
        "empty folder",
        f"{CHECK} dataset=data",
        "the folder holds no data files",
        lambda folder: (folder / "data").mkdir(),
    ),
    Wrong(
        "split of a folder",
        f"{CHECK} dataset=data dataset_split=dev",
        "split 'dev' can't be loaded",
        put("data/train.jsonl", '{"query": "a"}\n'),
    ),
    Wrong(
        "a pipe",
        f"{CHECK} dataset=f.jsonl",
        "neither file nor folder",
        lambda folder: os.mkfifo(folder / "f.jsonl"),
    ),
    Wrong("hub id offline", f"{CHECK} dataset=acme/no", "the hub could not be asked"),
    Wrong("url without a client", f"{CHECK} dataset=s3://bucket/a.jsonl", "s3://bucket/a.jsonl: can't be"),
    Wrong("one row to divide", f"{CHECK} eval_split=0.5", "eval_split: needs at least 2 rows", rows(keep=1)),
    Wrong("evaluation folder", f"{CHECK} eval_retrieval=beir", "beir/corpus.jsonl: there is no such file"),
    Wrong(
        "evaluation split",
        f"{CHECK} eval_retrieval=beir eval_retrieval_split=dev",
        "splits found: test",
        beir(),
    ),
    Wrong("corpus to export", f"{CHECK} export_corpus=no.jsonl", "no.jsonl: there is no such file"),
    Wrong("index that faiss can't make", f"{CHECK} export_formats=[faiss] index=IFV256,SQ8", "index: "),
    Wrong(
        "batch of one",
        f"{CHECK} per_device_train_batch_size=1",
        "set per_device_train_batch_size to 2 or more",
        rows(without="negatives"),
    ),
    Wrong(
        "no negatives at all",
        f"{CHECK} use_inbatch_negatives=false",
        "set use_inbatch_negatives=true",
        rows(without="negatives"),
    ),
    Wrong("one row", CHECK, "there is only one row", rows(keep=1, without="negatives")),
    Wrong(
        "no full batch",
        f"{CHECK} dataloader_drop_last=true per_device_train_batch_size=9",
        "nothing would be trained",
    ),
]
