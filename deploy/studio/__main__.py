"""`python -m deploy.studio`: what `make ui` and `backdrop studio` start; the environment names the services."""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from dataclasses import replace

from deploy.studio.memory import give_back_freely
from infra.settings import Settings

HOST, PORT = "127.0.0.1", 3001
LOCAL = ("127.0.0.1", "localhost", "::1")


def main() -> None:
    """Serves until it is told to end."""
    parser = argparse.ArgumentParser(prog="backdrop studio", description=__doc__)
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=PORT)
    given = parser.parse_args()
    give_back_freely()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # A registry that is away is asked again in two seconds; the client's own patience is minutes.
    for name, value in {"MAX_RETRIES": "1", "TIMEOUT": "10"}.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    serve(Settings.load(), given.host, given.port)


def serve(settings: Settings, host: str, port: int) -> None:
    """Blocks."""
    import torch
    import uvicorn

    from deploy.studio.app import make_app
    from deploy.studio.building import make_room

    torch.set_num_threads(1)  # the reward is small, and the engine's threads have the cores
    uvicorn.run(
        make_app(replace(make_room(settings, Counter()), local=host in LOCAL), [host]),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
