"""What is kept beside the weights of a reranker: how pairs are read and scored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from swift_core.errors import UserError
from swift_reranker.options import Scoring

SETTINGS = "reranker.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pairs are read and scored.

    Attributes:
        scoring: ``head`` or ``generative``.
        max_length: longest pair in tokens.
        query_max_length: longest query in tokens; None: no limit of its own.
        template: the text that a decoder reads; None for encoders.
        instruction: what the template says of it.
        true_token: the token whose logit speaks for a document (generative only).
        false_token: the token whose logit speaks against it.
    """

    scoring: Scoring
    max_length: int
    query_max_length: int | None = None
    template: str | None = None
    instruction: str = ""
    true_token: str | None = None
    false_token: str | None = None

    def save(self, folder: Path) -> None:
        """Write them into ``folder``."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (folder / SETTINGS).write_text(text, encoding="utf-8")


def read_settings(folder: Path) -> Settings | None:
    """What :meth:`Settings.save` wrote into ``folder``; None for other folders.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        return Settings(**{field.name: found[field.name] for field in fields(Settings)})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected the settings of a reranker, found something else "
            f"({type(error).__name__}: {error})"
        ) from error
