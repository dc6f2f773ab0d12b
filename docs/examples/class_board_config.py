import sys
from pathlib import Path

c = get_config()  # noqa: F821

c.JupyterHub.services = [
    {
        "name": "board",
        "url": "http://127.0.0.1:10101",      # where it listens; people reach it at /services/board/
        "command": [sys.executable, str(Path(__file__).with_name("class_board.py"))],
        "oauth_no_confirm": True,             # it is ours: nobody is asked whether it may know their name
    },
]
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", "access:services!service=board"]},      # everybody may open it
]
