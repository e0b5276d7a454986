"""What the service is told by its environment."""

import os

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """
    Every setting, with its default. Where records go (`MLFLOW_TRACKING_URI`, …) is mltrace's to read,
    address and key of the LLM (`OPENAI_BASE_URL`, `OPENAI_API_KEY`) are the OpenAI client's.
    """

    model: str = "gpt-4o-mini"
    temperature: float = 0.0
    documents: Path = Path("documents")
    experiment: str = "rag_experiments"
    passages: int = 4
    max_upload_bytes: int = 20 << 20

    @classmethod
    def from_environment(cls) -> "Settings":
        """Return the settings with what the environment says instead."""
        environ = os.environ.get
        return cls(
            model=environ("RAG_MODEL", cls.model),
            temperature=float(environ("RAG_TEMPERATURE", cls.temperature)),
            documents=Path(environ("RAG_DOCUMENTS", cls.documents)),
            experiment=environ("MLFLOW_EXPERIMENT_NAME", cls.experiment),
            passages=int(environ("RAG_PASSAGES", cls.passages)),
            max_upload_bytes=int(environ("RAG_MAX_UPLOAD_BYTES", cls.max_upload_bytes)),
        )
