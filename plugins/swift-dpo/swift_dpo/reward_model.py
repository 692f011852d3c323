"""A judge made of a reward model: transformers' sequence classification with one output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from swift_core.errors import SwiftError, UserError, first_line
from swift_core.model_folders import resolve_model
from swift_core.models import without_progress_bars
from swift_dpo.endpoint import shown
from swift_dpo.judges import Question

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments

# Shape legend: N answers, B of a batch.

_BATCH = 8


class RewardModel:
    """Scores of answers, from the whole conversation written with the model's own chat template.

    A model without a chat template reads prompt and answer as a pair of texts.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        """Load from a local folder.

        Raises:
            UserError: it holds no classification model with one output.
        """
        # Not given, trust_remote_code makes the library ask on the terminal; the answer here is no.
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            with without_progress_bars():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    folder, use_safetensors=True, output_loading_info=True, **local
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"judge: the reward model {folder} can't be loaded: {first_line(error)}"
            ) from error
        if info["missing_keys"] or info["mismatched_keys"] or model.config.num_labels != 1:
            raise UserError(
                f"judge: expected a reward model, that is sequence classification with one output whose "
                f"weights are all there; {folder} has {model.config.num_labels} outputs and lacks "
                f"{len(info['missing_keys']) + len(info['mismatched_keys'])} weights"
            )
        self._at_once = 1
        # transformers reads the score of a decoder at the last token that does not pad. Another token to pad
        # with, such as the end token, would be taken for padding where a conversation ends with it.
        if self._tokenizer.pad_token_id is not None:
            self._at_once = _BATCH
            # Without one, transformers refuses batches of a decoder.
            model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
            model.config.pad_token_id = self._tokenizer.pad_token_id
            self._tokenizer.padding_side = "right"
        self._model = model.to(device).eval()

    def __call__(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        """Scores [N] of one answer to each question.

        Raises:
            SwiftError: a score is no number, or the model's chat template refuses a conversation.
        """
        rows = [self._ids(*pair) for pair in zip(questions, answers, strict=True)]
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]["input_ids"]), reverse=True)
        scores = [0.0] * len(rows)
        for start in range(0, len(order), self._at_once):
            places = order[start : start + self._at_once]
            with torch.no_grad():
                found = self._model(**self._batch([rows[n] for n in places])).logits[:, 0].float()  # [B]
            if not torch.isfinite(found).all():
                raise SwiftError("judge: the reward model gives scores that are no numbers")
            for place, score in zip(places, found.tolist(), strict=True):
                scores[place] = score
        return scores

    def _batch(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self._at_once > 1:
            return dict(self._tokenizer.pad(rows, return_tensors="pt").to(self._model.device))
        (row,) = rows
        return {name: torch.tensor([ids], device=self._model.device) for name, ids in row.items()}

    def _ids(self, question: Question, answer: str) -> dict[str, Any]:
        tokenizer, prompt = self._tokenizer, question.prompt
        if tokenizer.chat_template is None:
            return dict(tokenizer(shown(prompt), answer, truncation=True))
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        messages.append({"role": "assistant", "content": answer})
        try:
            return dict(tokenizer.apply_chat_template(messages, return_dict=True))
        except TemplateError as error:
            raise SwiftError(
                f"judge: the chat template of the reward model refuses a conversation ({first_line(error)}): "
                f"{messages!r:.200}"
            ) from error


def reward_model(name: str, args: TrainingArguments) -> RewardModel:
    """The reward model in a local folder or on the hub, on the device of the run.

    Raises:
        UserError: it can't be had.
    """
    return RewardModel(folder_of(name, args), args.trainer.device)


def folder_of(name: str, args: TrainingArguments) -> Path:
    """Where the reward model lies; one of the hub is downloaded.

    Raises:
        UserError: there is none.
    """
    try:
        return resolve_model(args.with_model(name))
    except UserError as error:
        raise UserError(*(fault.replace("model_name_or_path", "judge") for fault in error.faults)) from error
