"""What JupyterHub's companions are tested in: the notebook image of docs/nbgrader.rst."""

from __future__ import annotations

import pytest
from box import REPOSITORY
from client_images import ensure_image


@pytest.fixture(scope="session")
def class_image() -> str:
    """nbgrader, nbgitpuller, jupyter-server-proxy and jupyterhub-singleuser, unmodified from the package index."""
    return ensure_image("class", REPOSITORY / "docs/examples/nbgrader", below="notebook")
