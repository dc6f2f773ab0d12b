c = get_config()  # noqa: F821

c.JupyterHub.spawner_class = "simple_spawner.SimpleSpawner"
c.SimpleSpawner.cmd = [
    "jupyter-lab", "--ServerApp.ip=127.0.0.1", "--ServerApp.port={port}", "--ServerApp.port_retries=0",
    "--ServerApp.open_browser=False", "--ServerApp.allow_remote_access=True", "--ServerApp.base_url={prefix}",
]
