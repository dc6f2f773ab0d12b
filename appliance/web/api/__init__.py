"""The REST API under /hub/api, in JupyterHub's shapes: one file for each group of operations."""
