# What the Hub decides arrives in the environment; without it this is a plain JupyterLab on port 8888.
import contextlib
import os

from appliance_notebook import Owner, PrecompressedFiles
from jupyter_server.serverapp import ServerApp

c = get_config()  # noqa: F821

c.ServerApp.ip = "0.0.0.0"
c.ServerApp.port = 8888
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.allow_remote_access = True
c.ServerApp.base_url = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/")
c.ServerApp.root_dir = os.environ.get("HOME", "/")
with contextlib.suppress(OSError):
    os.chdir(c.ServerApp.root_dir)  # where a kernel starts that names no folder
c.ServerApp.quit_button = False  # the Hub starts and stops the server
# Traefik is the only one that reaches this port: what it says about scheme and address is true.
c.ServerApp.trust_xheaders = True
c.ServerApp.tornado_settings = {"static_handler_class": PrecompressedFiles}

if "JUPYTERHUB_SERVICE_PREFIX" in os.environ and "JUPYTER_TOKEN" in os.environ:
    c.ServerApp.identity_provider_class = Owner
    # JupyterLab's own hub extension reads these: File > Hub Control Panel, File > Log Out. With them the page also stops
    # carrying the token.
    c.ServerApp.tornado_settings.update(
        hub_prefix=os.environ.get("JUPYTERHUB_BASE_URL", "/") + "hub/",
        hub_host=os.environ.get("JUPYTERHUB_HOST", ""),
        user=os.environ.get("JUPYTERHUB_USER", ""),
    )
    ServerApp.server_name = os.environ.get("JUPYTERHUB_SERVER_NAME", "")

# Students cannot write to the image, so Lab's extension manager could only fail; the read-only one asks no registry.
c.LabApp.extension_manager = "readonly"
# Start-up: looking for twenty language servers that are not there took 70 ms. An image that has one sets it to True.
c.LanguageServerManager.autodetect = False
