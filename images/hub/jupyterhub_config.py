"""Settings for life in a container, as compose.yaml starts it. A box's own are in /etc/appliance/config.d, and win."""
import os
from pathlib import Path
from urllib.parse import quote

c = get_config()  # noqa: F821


def said(name, default):
    """What compose.yaml passes on; an empty variable is one that nobody set."""
    return os.environ.get(f"APPLIANCE_{name}") or default


name, data = said("NAME", "appliance"), Path(said("DATA", "/var/lib/appliance"))

c.JupyterHub.hub_port = int(said("HUB_PORT", "8081"))
c.JupyterHub.base_url = said("BASE_URL", "/")
# One path inside and outside: the engine looks for homes on the host.
c.JupyterHub.db_url = f"sqlite:///{data}/jupyterhub.sqlite"
if "postgres" in said("PROFILES", "").split(","):
    password = Path("/etc/appliance/secrets/postgres_password").read_text().strip("\n")
    c.JupyterHub.db_url = f"postgresql://appliance:{quote(password, safe='')}@/appliance?host={data}/postgres/socket"
c.JupyterHub.cookie_secret_file = str(data / "jupyterhub_cookie_secret")
c.JupyterHub.state_dir = str(data / "state")
c.JupyterHub.homes_dir = str(data / "homes")
c.JupyterHub.homes_class = said("HOMES", "directory")
c.JupyterHub.tls = said("TLS", "off")
# The accounts of this container would be nobody's.
c.JupyterHub.authenticator_class = "local"

c.TraefikProxy.should_start = False
c.TraefikProxy.container_name = f"{name}-traefik"
c.TraefikProxy.user_id = 65532
c.TraefikProxy.holding_url = f"http://127.0.0.1:{said('HOLDING_PORT', '8083')}"
c.TraefikProxy.http_port = int(said("HTTP_PORT", "80"))

c.DockerSpawner.namespace = name
# With it students cannot make Btrfs subvolumes, which a quota does not count.
c.DockerSpawner.seccomp_profile = "/usr/share/appliance/seccomp.json"
c.DockerSpawner.subnet = said("SUBNET", "10.77.0.0/16")
c.DockerSpawner.image = said("NOTEBOOK_IMAGE", "appliance/notebook:latest")
c.DockerSpawner.probe_image = said("BASE_IMAGE", "appliance/base:latest")

for _file in sorted(Path("/etc/appliance/config.d").glob("*.py")):
    load_subconfig(str(_file))  # noqa: F821

if "port" not in c.JupyterHub:
    plain = c.JupyterHub.tls == "off" and "ssl_cert" not in c.JupyterHub
    c.JupyterHub.port = int(said("HTTP_PORT", "80") if plain else said("HTTPS_PORT", "443"))
