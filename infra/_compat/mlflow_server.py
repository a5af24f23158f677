"""MLflow's tracking server in one process: `python -m infra._compat.mlflow_server <state folder> <port>`.

`mlflow server` imports all of MLflow, opens the stores, and then starts uvicorn, which imports all of it again:
13 s and two processes where this takes 6 s and one. The private part is small: the variables through which that
command tells its worker where the stores are, and the application that the worker serves. A test holds both.

The backend's URL, with its password, comes from BACKDROP_MLFLOW_DB_URL and is on no command line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.database_url import check_database
from infra.errors import BackdropError

# The server answers with this root; clients then send artifacts through it and need no access to its disk.
ARTIFACT_ROOT = "mlflow-artifacts:/"


def serve(database: str, artifacts: Path, port: int) -> None:
    """Blocks until SIGTERM. `database` is checked first: MLflow itself would retry in silence for minutes."""
    check_database(database, "BACKDROP_MLFLOW_DB_URL")
    artifacts.mkdir(parents=True, exist_ok=True)
    _configure(database, artifacts)

    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, database, ARTIFACT_ROOT)
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, timeout_graceful_shutdown=3)


def _configure(database: str, artifacts: Path) -> None:
    """What `mlflow server --serve-artifacts` sets for its worker (mlflow.server._run_server)."""
    os.environ.update(
        {
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": ARTIFACT_ROOT,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts.as_uri(),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_WORKSPACES": "false",
        }
    )


def main() -> int:
    state, port = Path(sys.argv[1]), int(sys.argv[2])
    try:
        serve(os.environ["BACKDROP_MLFLOW_DB_URL"], state / "mlflow-artifacts", port)
    except BackdropError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
