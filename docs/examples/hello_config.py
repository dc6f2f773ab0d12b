c = get_config()  # noqa: F821

c.DockerSpawner.image = "appliance/hello:latest"
c.DockerSpawner.image_options = {
    "appliance/hello:latest": {
        "port": 8080,            # where the app listens, on every address of its container
        "strip_prefix": True,    # it believes it lives at /
        "default_url": "/",      # where people land, below their server's address
        "ready_path": "",        # the path that is asked until it answers
        "inject_token": False,   # it has no use for a token
    },
}
