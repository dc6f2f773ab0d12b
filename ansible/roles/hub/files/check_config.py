"""Loads the configuration as the Hub would, in the Hub's image; a sentence on stderr and status 1 if it cannot be."""
import shutil
import sys
from pathlib import Path

from appliance.config import load_settings
from appliance.errors import ApplianceError

folder = Path("/etc/appliance/config.d")
for file in sorted(Path("/given").glob("*.py")):
    shutil.copy(file, folder)
shutil.copy("/new.py", folder / "10-box.py")
try:
    settings = load_settings(["-f", "/usr/share/appliance/jupyterhub_config.py"])
    for name in ("authenticator_class", "spawner_class", "proxy_class", "homes_class"):
        settings.make(getattr(settings, name))
except ApplianceError as error:
    sys.exit(error.sentence)
