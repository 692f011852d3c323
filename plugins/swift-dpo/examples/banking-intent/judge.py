"""Does a message have the intent that it was asked for? A classifier of 77 intents of bank customers decides.

Logistic regression on TF-IDF of words and of pieces of words, fitted on ``judge.jsonl`` at first use. Needs
scikit-learn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union


def score(prompt: Any, answer: str, row: Mapping[str, Any]) -> float:
    """1 where the classifier gives ``answer`` the intent of the row, else 0."""
    return float(classifier().predict([answer])[0] == row["intent"])


@cache
def classifier() -> Pipeline:
    """From a text to one of 77 intents; always the same one."""
    lines = (Path(__file__).parent / "judge.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    texts = [text for row in rows for text in row["texts"]]
    intents = [row["intent"] for row in rows for _ in row["texts"]]
    words = TfidfVectorizer(sublinear_tf=True)
    pieces = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5))
    return make_pipeline(make_union(words, pieces), LogisticRegression(C=20, max_iter=500)).fit(
        texts, intents
    )
