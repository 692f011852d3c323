"""Mistakes in what is typed and in run files."""

from __future__ import annotations

from .making import CHECK, TRAIN, Wrong, edit, more, put

COMMANDS = [
    Wrong("no command", "", "swift: expected a command\nTry: swift --help"),
    Wrong("unknown command", "trian run.yaml", "there is no command 'trian'. Did you mean 'train'?"),
    Wrong("flag in place of a command", "--verbose", "unknown argument --verbose"),
    Wrong("no run file", "train", "required: RUN.yaml (it comes first"),
    Wrong("resume before the run file", "train --resume run.yaml", "it comes first, before --resume"),
    Wrong("unknown flag", f"{CHECK} --verbose", "unknown argument --verbose"),
    Wrong("option with dashes", f"{TRAIN} --learning_rate 2e-5", "without dashes: learning_rate=2e-5\n"),
    Wrong(
        "option with dashes and =", f"{TRAIN} --learning-rate=2e-5", "without dashes: learning_rate=2e-5\n"
    ),
    Wrong("option without =", f"{TRAIN} learning_rate 2e-5", "expected option=value, found 'learning_rate'"),
    Wrong("value of a switch", f"{CHECK} --json=1", "argument --json"),
    Wrong("no format", "export R", "required: --format"),
    Wrong("word too many", "tasks extra", "swift: unknown argument extra\n"),
    Wrong("unknown task to describe", "describe embeding", "Did you mean 'embedding'?"),
    Wrong("option behind a flag", f"{CHECK} --json temprature=1", "there is no option 'temprature'"),
]
OPTIONS = [
    Wrong(
        "typo in the file", CHECK, "run.yaml:9: there is no option 'learning_rte'", more("learning_rte: 1")
    ),
    Wrong(
        "typo on the command line", f"{CHECK} temprature=1", "command line: there is no option 'temprature'"
    ),
    Wrong(
        "type", f"{CHECK} learning_rate=fast", "learning_rate: expected a number >= 0, found 'fast' (text)"
    ),
    Wrong("yes for true", f"{CHECK} use_lora=yes", "use_lora: expected true or false, found 'yes'"),
    Wrong("range", f"{CHECK} temperature=0", "temperature: expected a number > 0, found 0"),
    Wrong(
        "choice", f"{CHECK} pooling_method=max", "expected one of cls, mean, lasttoken or null, found 'max'"
    ),
    Wrong("nothing", f"{CHECK} learning_rate=", "learning_rate: expected a number >= 0, found null"),
    Wrong("not a number", f"{CHECK} learning_rate=.nan", "learning_rate: expected a number >= 0, found nan"),
    Wrong("infinite", f"{CHECK} weight_decay=.inf", "weight_decay: expected a number >= 0, found inf"),
    Wrong("list for one", f"{CHECK} eval_k=5", "eval_k: expected a list (each an integer > 0), found 5"),
    Wrong("empty list", f"{CHECK} eval_k=[]", "eval_k: expected a list"),
    Wrong(
        "twice in the file",
        CHECK,
        "run.yaml:9: 'dataset' is given twice, first in line 3",
        more("dataset: x"),
    ),
    Wrong("twice on the command line", f"{CHECK} seed=1 seed=2", "'seed' is given twice; keep one"),
    Wrong("two evaluations", f"{CHECK} eval_split=0.1 eval_dataset=train.jsonl", "give one of them"),
    Wrong(
        "no task",
        CHECK,
        "task_type: expected the name of a task type, found none",
        put("run.yaml", "seed: 1"),
    ),
    Wrong(
        "number for a task",
        CHECK,
        "run.yaml:1: task_type: expected the name",
        put("run.yaml", "task_type: 3"),
    ),
    Wrong(
        "unknown task",
        f"{CHECK} task_type=embeding",
        "command line: task_type: no installed package provides",
    ),
    Wrong("task of no package", f"{CHECK} task_type=nobody:embedding", "swift-embedding:embedding"),
    Wrong(
        "export format", f"{CHECK} export_formats=[fais]", "no export format 'fais'. Did you mean 'faiss'?"
    ),
    Wrong("no effect here", f"{CHECK} label_smoothing_factor=0.1", "has no effect here: the task's own loss"),
    Wrong("resume as an option", f"{CHECK} resume_from_checkpoint=x", "write `swift train --resume`"),
    Wrong(
        "the library refuses", f"{CHECK} load_best_model_at_end=true", "requires the save and eval strategy"
    ),
    Wrong(
        "no data",
        CHECK,
        "dataset: expected training data",
        edit("run.yaml", lambda text: text.replace("dataset:", "run_name:")),
    ),
    Wrong("batch of 0", f"{CHECK} per_device_train_batch_size=0", "expected an integer > 0, found 0"),
    Wrong("accumulation of 0", f"{CHECK} gradient_accumulation_steps=0", "expected an integer > 0, found 0"),
    Wrong("no steps", f"{CHECK} max_steps=0", "max_steps: expected -1 or an integer > 0, found 0"),
    Wrong("no epochs", f"{CHECK} num_train_epochs=0", "num_train_epochs: expected a number > 0, found 0"),
    Wrong("seed below 0", f"{CHECK} seed=-1", "seed: expected an integer >= 0 and < 4294967296, found -1"),
    Wrong("workers below 0", f"{CHECK} dataloader_num_workers=-1", "expected an integer >= 0, found -1"),
    Wrong("negative rate", f"{CHECK} learning_rate=-1", "learning_rate: expected a number >= 0, found -1"),
    Wrong("log level", f"{CHECK} log_level=loud", "log_level: expected one of detail, debug"),
    Wrong(
        "evaluation of nothing",
        f"{CHECK} eval_strategy=epoch",
        "eval_strategy: 'epoch' needs evaluation data",
    ),
    Wrong("reports to nobody", f"{TRAIN} report_to=nonsense", "nonsense is not supported"),
    Wrong("missing package", f"{TRAIN} report_to=wandb", "a package that an option needs is not installed"),
    Wrong(
        "output_dir is a file",
        f"{TRAIN} output_dir=run.yaml",
        "output_dir: expected a folder that can be written",
    ),
    Wrong(
        "output_dir can't be made", f"{TRAIN} output_dir=/proc/x", "found /proc/x: No such file or directory"
    ),
    Wrong("output_dir is nothing", f"{CHECK} output_dir=", "output_dir: expected a text, found null"),
]
RUN_FILES = [
    Wrong("missing", "train rum.yaml", "rum.yaml: there is no such run file; . holds run.yaml"),
    Wrong("missing folder", "train no/run.yaml", "no/run.yaml: there is no such run file; check the path"),
    Wrong("empty", CHECK, "run.yaml: the run file is empty", put("run.yaml", "# nothing\n")),
    Wrong(
        "binary", CHECK, "expected UTF-8 text, found byte 0x89 at offset 0", put("run.yaml", b"\x89PNG\r\n")
    ),
    Wrong("UTF-16", CHECK, "save the file as UTF-8", edit("run.yaml", lambda text: text.encode("utf-16"))),
    Wrong("folder", "check model", "model: the run file can't be read: Is a directory"),
    Wrong("list", CHECK, "expected lines of 'option: value', found a list", put("run.yaml", "- a\n- b\n")),
    Wrong("one word", CHECK, "found a single value", put("run.yaml", "embedding")),
    Wrong("tab", CHECK, "run.yaml:9: not valid YAML", more("\tseed: 3\n")),
    Wrong(
        "no space after the colon",
        CHECK,
        "run.yaml:9: not valid YAML: expected 'option: value'",
        more("seed:3\n"),
    ),
    Wrong("key that is a number", CHECK, "run.yaml:9: expected a name before ':', found '3'", more("3: 4\n")),
    Wrong(
        "key that is a list",
        CHECK,
        "run.yaml:9: expected a name before ':', found a list",
        more("? [a]\n: 4\n"),
    ),
    Wrong("unknown tag", CHECK, "run.yaml:9: could not determine a constructor", more("seed: !x 3\n")),
    Wrong("holds itself", CHECK, "nested too deeply, or hold themselves", more("columns: &a {query: *a}\n")),
    Wrong("nested too deeply", CHECK, "nested too deeply", more(f"columns: {'[' * 3000}{']' * 3000}\n")),
    Wrong("two documents", CHECK, "not valid YAML", more("---\nseed: 3\n")),
    Wrong("the data", "check train.jsonl", "train.jsonl:2: not valid YAML"),
]
