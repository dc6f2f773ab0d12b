c = get_config()  # noqa: F821

# An image with JupyterLab and nothing of ours. What the Hub decides is in the environment.
c.DockerSpawner.image = "our-school/lab:latest"
c.DockerSpawner.cmd = [
    "sh", "-c",
    "exec jupyter lab --ServerApp.ip=0.0.0.0 --ServerApp.port=8888 --ServerApp.port_retries=0 "
    "--ServerApp.open_browser=False --ServerApp.allow_remote_access=True "
    '--ServerApp.base_url="$JUPYTERHUB_SERVICE_PREFIX" --ServerApp.root_dir="$HOME"',
]
