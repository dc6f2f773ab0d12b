c = get_config()  # noqa: F821

c.DockerSpawner.image = "appliance/notebook:latest"
c.DockerSpawner.allowed_images = {
    "Notebook": "appliance/notebook:latest",
    "Hello": "appliance/hello:latest",
}
c.DockerSpawner.image_options = {
    "appliance/hello:latest": {"port": 8080, "strip_prefix": True, "default_url": "/", "ready_path": "", "inject_token": False},
}
c.Spawner.mem_limit = "2G"
c.Spawner.cpu_limit = 2
