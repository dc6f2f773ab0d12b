c = get_config()  # noqa: F821

# A folder that everybody reads, and one per student that is kept apart from the home.
c.DockerSpawner.read_only_volumes = {"/srv/course": "/course"}
c.DockerSpawner.volumes = {"/srv/data/{username}": "/data"}
