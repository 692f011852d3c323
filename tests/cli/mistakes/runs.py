"""Mistakes with runs that are there."""

from __future__ import annotations

from .making import BEIR, TRAIN, Wrong, beir, both, drop, elsewhere, put, recorded

EVALUATE = "evaluate R eval_retrieval=beir"
RUNS = [
    Wrong(
        "no such run",
        "export no --format hf",
        "no/run.json: expected the record of a run, found no such folder",
    ),
    Wrong("no run", "export model --format hf", "expected the record of a run, found a folder without one"),
    Wrong("checkpoint", "export R/checkpoint-1 --format hf", "found a folder without one"),
    Wrong(
        "unknown format",
        "export R --format gguf",
        "--format: task type 'embedding' has no export format 'gguf'",
    ),
    Wrong(
        "option of an export", "export R --format hf sed=1", "there is no option 'sed'. Did you mean 'seed'?"
    ),
    Wrong("broken record", "export R --format hf", "R/run.json: expected JSON", put("R/run.json", "{")),
    Wrong(
        "other record",
        "export R --format hf",
        "expected the record of a run, found other JSON",
        put("R/run.json", "{}"),
    ),
    Wrong("newer record", "export R --format hf", "upgrade swift-core to read it", recorded(schema=99)),
    Wrong(
        "task is gone",
        "export R --format hf",
        "no installed package provides 'x:y'",
        recorded(task_type="x:y"),
    ),
    Wrong("finished without a model", "evaluate R", "somebody removed it; train again", drop("R/model")),
    Wrong(
        "failed without a model",
        "export R --format hf",
        "--resume",
        both(drop("R/model"), recorded(state="failed")),
    ),
    Wrong("nothing to evaluate on", "evaluate R", "eval_dataset: expected evaluation data"),
    Wrong(
        "nothing to index",
        "export R --format faiss",
        "export_corpus: expected a jsonl file",
        drop("train.jsonl"),
    ),
    Wrong(
        "file in the way", "export R --format hf", "found a file in its way; move it", put("R/exports", "")
    ),
    Wrong("no evaluation folder", EVALUATE, "beir/corpus.jsonl: there is no such file"),
    Wrong(
        "no judgements", EVALUATE, "there is no test.tsv or test.jsonl; splits found: none", beir(qrels=None)
    ),
    Wrong("unknown split", f"{EVALUATE} eval_retrieval_split=dev", "splits found: test", beir()),
    Wrong(
        "unknown document",
        EVALUATE,
        "test.tsv:2: corpus.jsonl has no document 'd1'",
        beir(corpus='{"_id": "d", "text": "a"}\n', qrels="query-id\tcorpus-id\tscore\nq0\td1\t1\n"),
    ),
    Wrong(
        "unknown query",
        EVALUATE,
        "test.tsv:2: queries.jsonl has no query 'q0'",
        beir(queries='{"_id": "q", "text": "a"}\n'),
    ),
    Wrong("no header", EVALUATE, "expected a header with query-id", beir(qrels="q0\td0\t1\n")),
    Wrong("nothing relevant", EVALUATE, "found none", beir(qrels="query-id\tcorpus-id\tscore\nq0\td0\t0\n")),
    Wrong(
        "document twice",
        EVALUATE,
        "corpus.jsonl:2: the _id 'd0' was there before",
        beir(corpus=BEIR["corpus.jsonl"].replace("d1", "d0")),
    ),
    Wrong("resume nothing", f"{TRAIN} --resume", "out holds no unfinished run of 'embedding'"),
    Wrong("resume nothing with an option", f"{TRAIN} --resume seed=3", "out holds no unfinished run"),
    Wrong("resume no run", f"{TRAIN} --resume model", "found a folder without one"),
    Wrong("resume a missing folder", f"{TRAIN} --resume no", "no/run.json: expected the record of a run"),
    Wrong("resume a finished run", f"{TRAIN} --resume R", "found one that has finished. Start a new run."),
    Wrong("resume a running run", f"{TRAIN} --resume R", "is running on host 'elsewhere'", elsewhere),
    Wrong(
        "resume without a checkpoint",
        f"{TRAIN} --resume R",
        "has no complete checkpoint",
        both(recorded(state="failed"), drop("R/checkpoint-*")),
    ),
    Wrong(
        "damaged checkpoint",
        f"{TRAIN} --resume R max_steps=3",
        "remove that folder and go on",
        both(recorded(state="failed"), put("R/checkpoint-2/model.safetensors", "x")),
        1,
    ),
    Wrong(
        "training diverges", f"{TRAIN} learning_rate=1e38", "training diverged. Lower learning_rate", None, 1
    ),
]
