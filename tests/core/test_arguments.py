"""Options: one flat namespace, typed, with all faults told at once and where they stand."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import transformers

from swift_core import TrainingArguments, UserError
from swift_core.runfile import parse_value, read_run_file


def test_options_of_all_three_parts_share_one_namespace():
    args = TrainingArguments(
        task_type="embedding", model_name_or_path="m", temperature=0.02, per_device_train_batch_size=4
    )
    assert args.core.model_name_or_path == args.model_name_or_path == "m"
    assert args.task.temperature == args.temperature == 0.02
    assert args.trainer.per_device_train_batch_size == args.per_device_train_batch_size == 4
    assert isinstance(args.trainer, transformers.TrainingArguments)


def test_every_option_of_the_training_loop_is_known():
    from swift_core.arguments import known_options
    from swift_core.registry import find_task

    known = known_options(find_task("embedding"))
    assert transformers.TrainingArguments.__dataclass_fields__.keys() <= known.keys()
    assert all(option.help for option in known.values()), [n for n, o in known.items() if not o.help]


def test_defaults_of_the_task_win_over_those_of_the_library_and_lose_to_the_users():
    assert TrainingArguments(task_type="embedding").learning_rate == 2e-5
    assert TrainingArguments(task_type="embedding", learning_rate=1).learning_rate == 1


def test_an_adapter_has_a_learning_rate_of_its_own():
    def rate(**options):
        return TrainingArguments("sequence-classification", **options).trainer.learning_rate

    assert (rate(), rate(use_lora=True), rate(use_lora=False)) == (2e-5, 5e-4, 2e-5)
    assert rate(use_lora=True, learning_rate=1e-4) == 1e-4
    assert (
        TrainingArguments("sequence-classification", use_lora=True)
        .replace(use_lora=False)
        .trainer.learning_rate
        == 2e-5
    )


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path):
    run = tmp_path / "run.yaml"
    run.write_text(
        "task_type: embedding\nmodl_name_or_path: x\nlearning_rate: '2e-5'\ntemperature: -1\n"
        "pooling_method: men\nmax_length: 12.5\nuse_lora: yes\nlr_scheduler_type: lineer\n"
        "export_formats: [fais]\nremove_unused_columns: true\ncolumns: [a]\n"
    )
    with pytest.raises(UserError) as caught:
        TrainingArguments.from_file(run)
    expected = [
        (2, "there is no option 'modl_name_or_path'. Did you mean 'model_name_or_path'?"),
        (3, "learning_rate: expected a number >= 0, found '2e-5' (text)"),
        (4, "temperature: expected a number > 0, found -1 (integer)"),
        (5, "pooling_method: expected one of cls, mean, lasttoken or null, found 'men' (text)"),
        (6, "max_length: expected an integer > 0 or null, found 12.5 (number)"),
        (7, "use_lora: expected true or false, found 'yes' (text)"),
        (8, "lr_scheduler_type: expected one of linear, cosine, "),
        (10, "remove_unused_columns: has no effect here"),
        (11, "columns: expected a mapping, found ['a'] (list)"),
    ]
    for line, text in expected:
        assert any(fault.startswith(f"{run}:{line}: {text}") for fault in caught.value.faults), text


def test_an_export_format_is_checked_before_training():
    with pytest.raises(UserError, match=r"no export format 'fais'.*Did you mean 'faiss'"):
        TrainingArguments(task_type="embedding", export_formats=["fais"])


def test_the_librarys_own_refusals_come_as_faults():
    with pytest.raises(UserError, match="strategy to match"):
        TrainingArguments(task_type="embedding", load_best_model_at_end=True, eval_strategy="epoch")


def test_contradicting_options_of_the_core_are_refused():
    with pytest.raises(UserError, match="give one of them"):
        TrainingArguments(task_type="embedding", eval_split=0.1, eval_dataset="x")


def test_the_command_line_wins_over_the_file(tmp_path: Path):
    run = tmp_path / "run.yaml"
    run.write_text("task_type: embedding\nlearning_rate: 1e-4\nseed: 1\n")
    args = TrainingArguments.from_file(run, ["learning_rate=2e-5", "query_prompt=query: ", "run_name=12"])
    assert (args.learning_rate, args.seed) == (2e-5, 1)
    # The shell has eaten the quotes of both; what does not fit as YAML is taken as the text it is.
    assert (args.query_prompt, args.run_name) == ("query: ", "12")
    assert args.sources["learning_rate"] == "command line"


@pytest.mark.parametrize("override", ["learning_rate", "=3", "a=1 b"])
def test_what_is_no_override_is_refused(tmp_path: Path, override: str):
    run = tmp_path / "run.yaml"
    run.write_text("task_type: embedding\n")
    with pytest.raises(UserError):
        TrainingArguments.from_file(run, [override])


def test_reading_an_unknown_option_suggests_a_name():
    args = TrainingArguments(task_type="embedding")
    with pytest.raises(AttributeError, match="Did you mean 'temperature'"):
        _ = args.temprature


def test_arguments_can_be_copied_pickled_and_changed():
    args = TrainingArguments(task_type="embedding", temperature=0.1)
    for twin in (copy.deepcopy(args), pickle.loads(pickle.dumps(args)), args.replace(seed=3)):
        assert twin.temperature == 0.1
    assert (args.replace(seed=3).seed, args.seed) == (3, 42)


def test_only_what_differs_from_a_default_counts_as_changed():
    args = TrainingArguments(task_type="embedding", learning_rate=2e-5, temperature=0.05, seed=7)
    assert args.changed() == {"seed": 7}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("10", 10),
        ("010", "010"),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("null", None),
        ("", None),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("[1, 2e-1]", [1, 0.2]),
        ("{a: b}", {"a": "b"}),
        ("a: b: c", "a: b: c"),
        ("0x10", 16),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the run file is empty"),
        (b"# only a comment\n", "the run file is empty"),
        (b"- a\n- b\n", "expected lines of 'option: value', found a list"),
        (b"just words", "expected lines of 'option: value', found a single value"),
        (b"a: 1\nb: 2\na: 3\n", "run.yaml:3: 'a' is given twice, first in line 1"),
        (b"columns: {q: a, q: b}\n", "'q' is given twice"),
        (b"a: [1, 2\n", "run.yaml:2: not valid YAML"),
        (b"a:\tb: c\n", "not valid YAML"),
        (b"\xff\xfe\x00a", "expected UTF-8 text, found byte 0xff"),
        (b"1: a\n", "expected a name before ':'"),
        (b"a: !!python/object:os.system x\n", "could not determine a constructor"),
        (b"a: \x00\n", "not valid YAML"),
    ],
)
def test_a_wrong_run_file_is_a_sentence_with_its_line(tmp_path: Path, content: bytes, message: str):
    run = tmp_path / "run.yaml"
    run.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_run_file(run)
    assert message in str(caught.value)


def test_a_missing_run_file_names_those_that_are_there(tmp_path: Path):
    (tmp_path / "train.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"holds train\.yaml"):
        read_run_file(tmp_path / "trian.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path):
    run = tmp_path / "run.yaml"
    run.write_bytes("\ufefftask_type: embedding\r\nseed: 3\r\n".encode())
    assert read_run_file(run).values == {"task_type": "embedding", "seed": 3}
