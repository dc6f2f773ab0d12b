c = get_config()  # noqa: F821

c.JupyterHub.services = [
    {
        "name": "idle-culler",
        "user": "idle-culler",      # an account that is made if there is none, and which nobody can sign in to
        "container": {"image": "school/class:latest", "mem_limit": "128M"},
        "command": ["/opt/jupyter/bin/python", "-m", "jupyterhub_idle_culler", "--timeout=3600"],
    },
]
c.JupyterHub.load_roles = [
    {
        "name": "idle-culler",
        "services": ["idle-culler"],
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
    },
]
