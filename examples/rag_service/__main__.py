"""
Run the service: `python examples/rag_service`, at RAG_HOST and RAG_PORT (127.0.0.1:8000).

Without OPENAI_API_KEY and OPENAI_BASE_URL the answers come from `local_llm`, served beside it. The runs go to
MLFLOW_TRACKING_URI, by default `sqlite:///mlflow.db` in the current directory.
"""

import os
import threading

import local_llm
import uvicorn

from app import create_app


def main() -> None:
    host, port = os.environ.get("RAG_HOST", "127.0.0.1"), int(os.environ.get("RAG_PORT", "8000"))
    if not {"OPENAI_API_KEY", "OPENAI_BASE_URL"} & os.environ.keys():
        os.environ["OPENAI_BASE_URL"] = serve_local_llm()
        os.environ["RAG_MODEL"] = local_llm.MODEL
    os.environ.setdefault("OPENAI_API_KEY", "none")
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    print(f"The service: http://{host}:{port}/docs  Its runs: {tracking}", flush=True)
    if tracking.startswith("sqlite:"):
        print(f"To see them: mlflow ui --backend-store-uri {tracking}", flush=True)
    uvicorn.run(create_app(), host=host, port=port, log_level="warning")


def serve_local_llm() -> str:
    """Serve the local model in a thread, on a free port; return its address."""
    server = uvicorn.Server(uvicorn.Config(local_llm.app, port=0, log_level="warning"))
    socket = server.config.bind_socket()
    threading.Thread(target=server.run, args=([socket],), daemon=True).start()
    return f"http://127.0.0.1:{socket.getsockname()[1]}/v1"


if __name__ == "__main__":
    main()
