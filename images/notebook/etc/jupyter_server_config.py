# What the Hub decides arrives in the environment; without it this is a plain JupyterLab on port 8888.
import os

c = get_config()  # noqa: F821

c.ServerApp.ip = "0.0.0.0"
c.ServerApp.port = 8888
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.allow_remote_access = True
c.ServerApp.base_url = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/")
c.ServerApp.root_dir = os.environ.get("HOME", "/")
