from __future__ import annotations

from dataclasses import dataclass

QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_RERANKER = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}\nassistant\n"
DECODER = "Query: {query}\nDocument: {document}\nRelevance:"


@dataclass(frozen=True)
class Template:
    text: str

    def parts(self, query, instruction):
        before, after = self.text.split("{document}")
        return before.replace("{instruction}", instruction).replace("{query}", query), after
