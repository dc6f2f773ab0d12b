c = get_config()  # noqa: F821

c.DockerSpawner.allowed_images = {
    "python": {"image": "appliance/notebook:latest", "display_name": "Python", "description": "Notebooks in JupyterLab"},
    "r": {"image": "school/r:2026", "display_name": "R", "description": "RStudio, for statistics"},
}
c.Spawner.profile_list = [
    {"display_name": "Lessons", "slug": "lessons", "description": "For everything we do in class", "default": True,
     "image": "python"},
    {"display_name": "Statistics", "slug": "statistics", "groups": ["11a", "11b"],
     "image": "r", "mem_limit": "2G", "default_url": "/rstudio"},
    {"display_name": "Big data", "slug": "big", "description": "For projects; there is room for three at a time",
     "groups": ["data club"], "image": "python", "mem_limit": "8G", "cpu_limit": 4, "environment": {"WORKERS": "4"}},
]
c.Spawner.mem_limit = "1G"
c.JupyterHub.group_limits = {
    "7b": {"mem_limit": "768M", "profiles": ["lessons"]},
    "data club": {"mem_limit": "2G", "max_named_servers": 3},
}
